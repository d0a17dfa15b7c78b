"""Engines for tests: the real one, watched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attri.runtime.engines.onnxruntime import OrtEngine


class WatchedEngine:
    """ONNX Runtime on one thread; keeps the inputs of each run, and has the limits that it is told."""

    description = "watched"

    def __init__(self, graph: Path, limits: Mapping[str, int] | None = None) -> None:
        self.engine, self.limits = OrtEngine(graph, "cpu", threads=1), limits or {}
        self.runs: list[Mapping[str, NDArray[Any]]] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.runs.append(inputs)
        return self.engine.run(inputs)

    def close(self) -> None:
        self.engine.close()


def token_rows(run: Mapping[str, NDArray[Any]]) -> int:
    """Rows of tokens of one run of the text graph, over all its images."""
    return len(run["retrieved"]) * run["token_rows"].size
