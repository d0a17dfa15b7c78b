"""An engine against the bundle's reference images: what agrees, what does not, and how much so few can tell."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.manifests import edit_manifest

from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.engines.verify import ParityStage, ReferenceSet, compare, read_reference
from attri.runtime.errors import ParityError


class Replay:
    """An engine that gives what the model gave, but for what was changed."""

    description = "replay"
    limits: Mapping[str, int] = {"B": 3}

    def __init__(self, check: ReferenceSet) -> None:
        self.check, self.done = check, 0

    def run(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        rows = slice(self.done, self.done + len(next(iter(inputs.values()))))
        self.done = rows.stop
        if "pixels" in inputs:
            return [self.check.image_features[rows], self.check.retrieved[rows]]
        return [self.check.text_features[rows]]

    def close(self) -> None:
        pass


def gated(bundle: Path, tmp_path: Path, **gates: float) -> Bundle:
    """A copy with other gates, by the id of their stage."""
    path = Path(shutil.copytree(bundle, tmp_path / "copy"))

    def change(raw: dict[str, Any]) -> None:
        for stage in raw["parity"]["stages"]:
            stage["gate"] = gates.get(stage["id"], stage["gate"])

    edit_manifest(path, change)
    return Bundle.open(path)


def test_the_models_own_answers_agree(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for name in (VISION, TEXT):
        # A float32 cosine of a vector with itself is 1 to the last bits.
        assert min(compare(opened, name, Replay(read_reference(opened))).values()) > 1 - 1e-6


@pytest.mark.parametrize(
    ("gate", "flips", "agrees"), [(0.9, 1, True), (1.0, 1, False), (0.999, 1, True), (0.999, 9, False)]
)
def test_a_near_tie_among_few_entries_is_no_evidence(
    bundle: Path, tmp_path: Path, gate: float, flips: int, agrees: bool
) -> None:
    opened = gated(bundle, tmp_path, retrieved=gate)
    replay = Replay(read_reference(opened))
    replay.check.retrieved.reshape(-1)[:flips] += 1
    if agrees:
        assert compare(opened, VISION, replay)[ParityStage.RETRIEVED] < 1
    else:
        with pytest.raises(ParityError, match=r"retrieved entries of vision.onnx is"):
            compare(opened, VISION, replay)


@pytest.mark.parametrize(("gate", "wrong", "agrees"), [(0.97, 1, True), (0.97, 2, False), (1.0, 1, False)])
def test_one_best_label_of_few_may_differ_where_the_gate_lets_any(
    bundle: Path, tmp_path: Path, gate: float, wrong: int, agrees: bool
) -> None:
    opened = gated(bundle, tmp_path, image_features=-1.01, top1=gate)  # a cosine of -1 may round to less
    replay = Replay(read_reference(opened))
    replay.check.image_features[:wrong] *= -1  # the best label becomes the worst
    if agrees:
        compare(opened, VISION, replay)
    else:
        with pytest.raises(ParityError, match=r"top-1 of vision.onnx is"):
            compare(opened, VISION, replay)


def test_nan_never_agrees(bundle: Path, tmp_path: Path) -> None:
    opened = gated(bundle, tmp_path, image_features=-1.01)
    replay = Replay(read_reference(opened))
    replay.check.image_features[0, 0] = np.nan
    with pytest.raises(ParityError, match=r"image features of vision.onnx is nan"):
        compare(opened, VISION, replay)
