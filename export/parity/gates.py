"""Gates of the parity check: the least figures that a bundle must reach."""

from __future__ import annotations

from dataclasses import dataclass

from attri.runtime.bundle import Precision

__all__ = ["Gates"]


@dataclass(frozen=True)
class Gates:
    """Least values that a bundle must reach (our choice; docs/explanation/gates.md)."""

    cosine: float  # of image features and of text features
    retrieved: float  # share of equal pool entries
    top1: float  # share of equal best classes, ties left out

    @classmethod
    def of(cls, precision: Precision) -> Gates:
        """The default gates of "fp32", "fp16" or "int8"."""
        return {
            "fp32": cls(0.99999, 0.999, 1.0),
            "fp16": cls(0.999, 0.99, 0.99),
            "int8": cls(0.98, 0.95, 0.97),
        }[precision]
