"""Classify pictures with an exported bundle: NumPy on the host, ONNX Runtime or TensorRT for the graphs, no torch."""

from typing import TYPE_CHECKING, Any

from attri.runtime.classifier import Classifier, Prediction
from attri.runtime.errors import AttriError

if TYPE_CHECKING:
    from attri.runtime.streaming import stream

__all__ = ["AttriError", "Classifier", "Prediction", "stream"]


def __getattr__(name: str) -> Any:
    """Import `stream` when it is asked for: a classifier alone needs neither cameras nor threads."""
    if name == "stream":
        from attri.runtime.streaming import stream

        return stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
