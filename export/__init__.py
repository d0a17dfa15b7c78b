"""Export of a trained prompt to a bundle: two static ONNX graphs that agree with the PyTorch model.

The names in `__all__` are imported at first use: engines are built on devices that have neither PyTorch nor onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attri.export.onnx import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attri.export import onnx

    return getattr(onnx, name)
