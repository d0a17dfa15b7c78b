"""A tower of timm that learns what the pocket backbone sees: tools/pocket/distill.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attri.train import pocket
from attri.train.model.backbone import Backbone, load_backbone
from attri.train.model.towers.timm_vit import TimmVit
from tools.pocket.distill import Run, read, train


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Real images, [N, SIDE, SIDE, 3]."""
    return read([pocket.IMAGES / "val"])


@pytest.fixture(scope="module")
def whole(photos: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps without a stop."""
    folder = tmp_path_factory.mktemp("distill") / "whole"
    train(Run("test_vit2", 3), photos, folder, every=1)
    return folder


def text_features(backbone: Backbone, words: torch.Tensor) -> torch.Tensor:
    clip: Any = backbone.clip
    features: torch.Tensor = clip.encode_text(words, normalize=True)
    return features


def test_what_it_writes_is_a_model_by_its_folder_with_pocket_s_words(whole: Path) -> None:
    student, teacher = load_backbone(f"local-dir:{whole}"), load_backbone()
    assert isinstance(student.tower, TimmVit)
    assert student.preprocess().size == 160
    words = torch.tensor([[49406, 320, 1125, 539, 320, 3329, 49407, *[0] * 25]])  # "a photo of a bird"
    for backbone in (student, teacher):
        assert backbone.context_length == 32
    with torch.no_grad():
        ours, theirs = (text_features(each, words) for each in (student, teacher))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)  # the same weights in another class of open_clip


def test_the_cosine_with_what_is_taught_rises(photos: torch.Tensor) -> None:
    run = Run("test_vit2", 1000)
    cosines = [run.advance(photos[:16]) for _ in range(12)]
    assert sum(cosines[-3:]) / 3 > cosines[0] + 0.05


def test_a_stopped_run_ends_with_the_same_weights(
    whole: Path, photos: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Run.advance

    def stop_at_the_third(self: Run, images: torch.Tensor) -> float:
        if self.step == 2:
            raise KeyboardInterrupt
        return usual(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(Run("test_vit2", 3), photos, tmp_path, every=1)
    train(Run("test_vit2", 3), photos, tmp_path, every=1)
    ours, theirs = (load_file(folder / "open_clip_model.safetensors") for folder in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
