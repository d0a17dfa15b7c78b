"""What the classifier asks of whatever runs a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import EngineError

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


def require_finite(values: NDArray[Any], name: str, engine: Engine) -> None:
    """Check that what a graph gave are numbers: a score of NaN passes every comparison, or none.

    Args:
        values: Of bounded size, so that their sum is finite if they are.
        name: Of the output, for the message.
        engine: That ran the graph.

    Raises:
        EngineError: A value is NaN or infinite.
    """
    if not np.isfinite(values.sum()):
        raise EngineError(f"{name} has values that are not finite, on {engine.description}: run attri-doctor")
