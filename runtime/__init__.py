"""Classify pictures with an exported bundle: NumPy on the host, ONNX Runtime or TensorRT for the graphs, no torch."""

from attri.runtime.classifier import Classifier, Prediction
from attri.runtime.errors import AttriError

__all__ = ["AttriError", "Classifier", "Prediction"]
