"""One round of benchmarks/neighbour.py with attri-run alone: training and exporting take minutes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.slow  # the program that it is beside trains: half a minute of both cores
def test_attri_run_beside_a_busy_program(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    neighbour = importlib.import_module("benchmarks.neighbour")
    bench = neighbour.Bench(tmp_path, 1, 2, 1, bundle)
    times = neighbour.measure(bench, 1)
    assert {(turn.where, turn.spins) for turn in times} == {(w, s) for w in ("idle", "beside") for s in (True, False)}
    (row,) = neighbour.table(times)[2:]
    assert row.startswith("| attri-run | ")
    bench.answers["attri-run"] = "another"
    with pytest.raises(AssertionError, match="attri-run gives something else"):
        bench.run("attri-run")
