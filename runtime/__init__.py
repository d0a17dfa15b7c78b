"""Classify images with an exported bundle: NumPy on the host, ONNX Runtime or TensorRT for the graphs, no torch."""

from typing import TYPE_CHECKING, Any

from attri.runtime.bundle import Bundle
from attri.runtime.classifier import Classifier
from attri.runtime.errors import (
    AttriError,
    BundleError,
    BundleNotFoundError,
    EngineError,
    FailedError,
    ImageError,
    LabelsError,
    MissingExtra,
    ParityError,
    SinkError,
    SourceError,
    UsageError,
)
from attri.runtime.prediction import Prediction
from attri.runtime.preprocess import Preprocess
from attri.runtime.prompt import Prompt

if TYPE_CHECKING:
    from attri.runtime.streaming import stream

    __version__: str

__all__ = [
    "AttriError",
    "Bundle",
    "BundleError",
    "BundleNotFoundError",
    "Classifier",
    "EngineError",
    "FailedError",
    "ImageError",
    "LabelsError",
    "MissingExtra",
    "ParityError",
    "Prediction",
    "Preprocess",
    "Prompt",
    "SinkError",
    "SourceError",
    "UsageError",
    "__version__",
    "stream",
]


def __getattr__(name: str) -> Any:
    """Import when it is asked for what a classifier alone does not need: cameras and threads, package metadata."""
    if name == "stream":
        from attri.runtime.streaming import stream

        return stream
    if name == "__version__":
        from importlib.metadata import version

        return version("attri")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
