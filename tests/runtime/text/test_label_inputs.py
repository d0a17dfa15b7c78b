"""States of labels, where a text tower is not causal: computed once for each label, and kept within a bound."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from attri.runtime.errors import EngineError
from attri.runtime.text.label_inputs import LABELS, LabelInputs
from attri.runtime.text.padded_tokens import PaddedTokens

T, W = 6, 4
TABLE = np.arange(100 * W, dtype=np.float16).reshape(100, W)
STATE = T * W * 4  # bytes


class Doubling:
    """In the place of the label graph; it notes how many labels each run had."""

    description = "a test's engine"

    def __init__(self, **limits: int) -> None:
        self.limits: Mapping[str, int] = limits
        self.runs: list[int] = []
        self.closed = False

    def run(self, inputs):
        self.runs.append(len(inputs["tokens"]))
        return [2 * inputs["tokens"]]

    def close(self) -> None:
        self.closed = True


def tokens(*labels: int) -> PaddedTokens:
    ids = np.array([[label] * T for label in labels], np.int32)
    return PaddedTokens(ids, np.full(len(ids), T - 1, np.int32))


def expected(*labels: int) -> np.ndarray:
    return np.stack([np.tile(2 * TABLE[label].astype(np.float32), (T, 1)) for label in labels])


def test_each_label_is_computed_once():
    engine = Doubling()
    inputs = LabelInputs(TABLE, engine)
    feed = inputs(tokens(1, 2, 1))
    np.testing.assert_array_equal(feed["states"], expected(1, 2, 1))
    np.testing.assert_array_equal(feed["pooled_rows"], [5, 11, 17])
    assert feed["states"].dtype == np.float32
    np.testing.assert_array_equal(inputs.states(tokens(3, 2)), expected(3, 2))
    assert engine.runs == [2, 1]


@pytest.mark.parametrize(("limits", "runs"), [({}, [LABELS, 6]), ({"C": 25}, [25, 25, 20])])
def test_runs_are_as_large_as_memory_and_engine_allow(limits, runs):
    engine = Doubling(**limits)
    LabelInputs(TABLE, engine).states(tokens(*range(70)))
    assert engine.runs == runs


def test_what_is_not_used_goes_first_and_the_bound_holds():
    engine = Doubling()
    inputs = LabelInputs(TABLE, engine, max_bytes=3 * STATE)
    for labels in ((1, 2, 3), (1,), (4,)):  # 2 has to go
        np.testing.assert_array_equal(inputs.states(tokens(*labels)), expected(*labels))
    engine.runs.clear()
    inputs.states(tokens(1, 3, 4))
    assert engine.runs == []
    # More than are kept: of these, three stay, whichever order they come in.
    for _ in range(2):
        np.testing.assert_array_equal(inputs.states(tokens(1, 2, 3, 4, 5)), expected(1, 2, 3, 4, 5))
    assert engine.runs == [2, 2]


def test_what_cannot_be_kept_is_not_computed_before_it_is_needed():
    engine = Doubling()
    inputs = LabelInputs(TABLE, engine, max_bytes=3 * STATE)
    inputs.prepare(tokens(1, 2, 3, 4))
    assert engine.runs == []
    inputs.prepare(tokens(1, 2, 3))
    inputs.states(tokens(3, 1))
    assert engine.runs == [3]


def test_a_state_that_is_not_finite_is_an_error():
    class Broken(Doubling):
        def run(self, inputs):
            return [np.full_like(inputs["tokens"], np.nan)]

    with pytest.raises(EngineError, match="states has values that are not finite"):
        LabelInputs(TABLE, Broken()).states(tokens(1))


def test_close_gives_all_back():
    engine = Doubling()
    inputs = LabelInputs(TABLE, engine)
    inputs.states(tokens(1))
    inputs.close()
    assert engine.closed


def resident(file: Path) -> int:
    """Bytes of the mappings of a file that are in this process's memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0] and not line.split(" ")[0].endswith(":"):
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_of_a_table_of_256000_words_only_rows_that_are_used_are_read(tmp_path):
    """As large as SigLIP2's in half precision, 393 MB, with a hole in the place of weights."""
    file = tmp_path / "token_embedding.npy"
    np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(256_000, 768)).flush()
    table = np.load(file, mmap_mode="r")
    inputs = LabelInputs(table, Doubling())
    assert resident(file) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = np.random.default_rng(0).integers(0, 256_000, 100)
    for word in words:
        inputs.states(tokens(int(word)))
    # A row has 1.5 kB; the kernel maps up to 16 pages around a page that it has read already.
    assert 0 < resident(file) <= len(words) * 2 * 16 * resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB, states included
