"""Graphs that are traced once in a test session: it takes seconds and gives the same each time (test_roundtrip.py)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.shared import made_once

from attri.export.graph.opset import to_opset_17
from attri.export.graph.precision import DTYPES
from attri.train.model import AttriPrompt

Trace = Callable[[AttriPrompt, str, int], onnx.ModelProto]


def shared(factory: pytest.TempPathFactory, trace: Trace) -> Trace:
    """trace_vision or trace_text as it is, but for the time: what it made of the same model is read from a file.

    Opset 17 is what opset 18 becomes by `to_opset_17`, and the graph that int8 begins with is float32.
    """

    def call(model: AttriPrompt, precision: str, opset: int) -> onnx.ModelProto:
        kind = str(DTYPES[precision])

        def make(folder: Path) -> None:
            folder.mkdir()
            onnx.save(trace(model, precision, 18), folder / "graph.onnx")

        proto = onnx.load(made_once(factory, f"{trace.__name__}-{kind}-{_digest(model)}", make) / "graph.onnx")
        if opset == 17:
            to_opset_17(proto)
        return proto

    return call


def _digest(model: AttriPrompt) -> str:
    """All that a graph depends on: the frozen backbone, and the shape of prompt and retrieval."""
    config = dataclasses.replace(model.config, pool_size=model.config.topk, shared=True)  # what was learned is input
    return hashlib.sha256(f"{model.backbone.sha256} {config}".encode()).hexdigest()
