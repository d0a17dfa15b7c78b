"""Options of attri-run about batches: what is measured and kept, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.bench import camera, video

from attri.runtime.capture.spec import SourceSpec
from attri.runtime.cli.batch_options import choose_max_batch
from attri.runtime.cli.run import main
from attri.runtime.errors import UsageError


class StandIn:
    """A classifier that counts what it is measured with."""

    def __init__(self, most: int | None = None) -> None:
        self.largest_batch, self.description, self.batch = most, "stand-in", 0
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(files={"vision.onnx": {"sha256": "0"}}))
        self.runs: list[int] = []

    def fork(self) -> StandIn:
        return copy.copy(self)

    def embed_images(self, images: Sequence[np.ndarray]) -> None:
        assert len(images) == self.batch
        self.runs.append(len(images))


def choose(
    classifier: Any, specs: Sequence[SourceSpec], asked: int | None = None, threads: int | None = None
) -> tuple[int, str]:
    return choose_max_batch(specs, classifier, asked, threads)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_it_is_measured_once_and_told() -> None:
    classifier = StandIn()
    size, why = choose(classifier, [video()])
    measured = len(classifier.runs)
    assert measured >= 4
    assert why.startswith(f"batches of up to {size} (1 in ")
    assert why.endswith("measured now; --max-batch sets another")
    assert choose(classifier, [camera("a"), camera("b")]) == (size, why.replace("now", "before"))
    assert len(classifier.runs) == measured
    choose(classifier, [video()], threads=1)  # another engine, as it were
    assert len(classifier.runs) > measured


def test_nothing_is_measured_where_frames_come_one_by_one() -> None:
    classifier = StandIn()
    one = SourceSpec("a.png", "images", "a.png", files=(Path("a.png"),))
    assert choose(classifier, [camera()]) == choose(classifier, [one]) == (1, "")
    assert choose(classifier, [video()], asked=6) == (6, "")
    assert classifier.runs == []


def test_an_engine_gets_no_more_than_it_takes() -> None:
    with pytest.raises(UsageError, match=r"--max-batch 6: this engine takes 4 images at once"):
        choose(StandIn(4), [video()], asked=6)
    assert choose(StandIn(1), [video()])[0] == 1


def test_gathering_needs_two_cameras(image_files: list[Path], bundle: Path) -> None:
    words = [str(image_files[0]), "--gather", "20", "--bundle", str(bundle)]
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 2
    assert "--gather: there are no two cameras or streams" in run.output
