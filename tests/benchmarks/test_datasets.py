"""One round of benchmarks/datasets.py with the embedded images: all contestants give the same labels."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from attri.train.pocket import IMAGES

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")


@pytest.mark.slow  # eight processes
def test_all_contestants_agree(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    datasets = importlib.import_module("benchmarks.datasets")
    bench = datasets.Bench(tmp_path, bundle, IMAGES / "test", 20, 96)
    names = [name for name in bench.commands if "--threads" not in name]
    for name in names:
        assert bench.turn(name, datasets.ALL).memory > 20
    assert len(bench.labels) == 20
    assert len(bench.ties) < 3
    bench.labels[next(iter(bench.labels.keys() - bench.ties))] = "another"
    with pytest.raises(AssertionError, match=r"attri-run: .* is .*, not another"):
        bench.turn("attri-run", datasets.ALL)


def test_rates_leave_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    datasets = importlib.import_module("benchmarks.datasets")
    turns = {
        (datasets.LOOP, datasets.SHORT): [datasets.Turn(2.0, 90)],
        (datasets.LOOP, datasets.ALL): [datasets.Turn(4.0, 100)],
    }
    bench = SimpleNamespace(images=datasets.FEW + 100, others={datasets.LOOP: 3})
    assert datasets.table(bench, turns)[2:] == ["| a plain loop | 50 | 1.00 | 2.0 | 100 | 3 |"]
