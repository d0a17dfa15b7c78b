"""`attri-run --bench`: a table for this machine, what limits it, and options that it does not heed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from attri.runtime.cli import bench as module
from attri.runtime.cli.bench import limit_of
from attri.runtime.cli.run import main
from attri.runtime.deliver.result import Load

ROW = re.compile(r"(cached|uncached) +(\d) +(\d+\.\d) +(\d+ ms|-) +(\d\.\d) +(\d+)%  (the \w+( \w+)?|\w+)")


def test_a_row_for_each_number_of_cameras(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    monkeypatch.setattr(module, "SOURCES", (1, 2))
    words = ["--bench", "0.3", "--bundle", str(bundle), "--max-batch", "2", "--threads", "1"]
    run = CliRunner().invoke(main, [*words, "--labels", str(tmp_path / "labels.txt")])
    assert run.exit_code == 0, run.output
    first, cameras, heading, *rows = run.stdout.splitlines()
    assert first.endswith("on cpu, 2 labels, batches of up to 2")
    assert cameras == "cameras of 1280 x 720 at 30 fps, 0.3 s each"
    assert heading == "text      cameras  results/s  95% of ages  batch  idle  limited by"
    found = [ROW.fullmatch(row) for row in rows]
    assert [(each[1], each[2]) for each in found if each] == [(t, n) for t in ("cached", "uncached") for n in "12"]


@pytest.mark.parametrize(
    ("rate", "stage", "said"),
    [(58.0, "vision", "the cameras"), (30.0, "vision", "the vision graph"), (9.0, "preprocess", "preprocessing")],
)
def test_what_limits(rate: float, stage: str, said: str) -> None:
    seconds = dict.fromkeys(("idle", "preprocess", "vision", "text", "deliver"), 0.1) | {"idle": 9.0, stage: 1.0}
    assert limit_of(Load(2, 1, 2, seconds), rate, 2) == said


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["camera0"], "SOURCE"),
        (["--json"], "--json"),
        (["--smooth", "1"], "--smooth"),
        (["--roi", "0,0,1,1"], "--roi"),
    ],
)
def test_what_it_does_not_heed_is_refused(bundle: Path, words: list[str], name: str) -> None:
    run = CliRunner().invoke(main, [*words, "--bench", "1", "--bundle", str(bundle)])
    assert (run.exit_code, f"--bench has cameras of its own: leave {name} out" in run.output) == (2, True)
