"""What the classifier asks of whatever runs a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Progress = Callable[[str], None]  # is given lines for a person while something takes long


class Engine(Protocol):
    """One loaded graph."""

    description: str  # for a person: what runs where
    limits: Mapping[str, int]  # greatest extent of a dimension, by its name in the graph; others are not bounded

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the graph's order. Raises EngineError where the run fails."""
        ...

    def close(self) -> None:
        """Give back what it holds of a device; no run after it."""
        ...
