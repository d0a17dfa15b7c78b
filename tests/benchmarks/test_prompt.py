"""benchmarks/prompt.py on small bundles: constant graphs give the same bits, in float32 and in int8."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.prompt")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_prompt_as_an_input_gives_the_bits_of_one_as_constants(
    request: pytest.FixtureRequest, benchmark: ModuleType, tmp_path: Path, precision: str
) -> None:
    path = request.getfixturevalue("bundle" if precision == "fp32" else "int8_bundle")
    _, _, outputs, frame, cached, again, swap = benchmark.measure(path, ["cat", "dog"], 1, tmp_path)
    assert outputs == "equal"
    assert re.fullmatch(r"\d\.\d{3} \(\d+\.\d ms\)", frame)
    assert re.fullmatch(r"\d\.\d{3} \(\d+\.\d ms\)", cached)
    assert re.fullmatch(r"\d\.\d{3}", again)
    assert swap.endswith(" ms")


def test_outputs_that_differ_are_said_to(benchmark: ModuleType) -> None:
    class Engine:
        def __init__(self, value: float) -> None:
            self.value = value

        def run(self, _: object) -> list[np.ndarray]:
            return [np.full(3, self.value, np.float32), np.array([1])]

    one, other = {"vision.onnx": Engine(1.0)}, {"vision.onnx": Engine(1.25)}
    feeds: dict[str, dict[str, np.ndarray]] = {"vision.onnx": {}}
    assert benchmark.compared(one, other, feeds, feeds) == "differ by 2.5e-01"
    assert benchmark.compared(one, one, feeds, feeds) == "equal"
