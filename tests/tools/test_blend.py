"""Blends of weights: tools/pocket/blend.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attri.train import pocket
from tools.pocket.blend import TOKENS, blend
from tools.pocket.pretrain import write

ROUNDED = 1e-2  # int8 rows with a scale each: half of 1/127 of a row's largest value, and pocket's are below 2


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The shipped weights without their last token row, and a model of other numbers without their first."""
    model = pocket.load()
    ids = load_file(pocket.weights())["token_ids"].tolist()
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    tensors = dict(model.state_dict())
    write(tensors | {TOKENS: tensors[TOKENS][ids[:-1]]}, ids[:-1], old)
    other = {name: tensor + 0.5 for name, tensor in tensors.items()}
    write(other | {TOKENS: other[TOKENS][ids[1:]]}, ids[1:], new)
    return old, new


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_tensor_lies_between_the_two(files: tuple[Path, Path], share: float) -> None:
    tensors, _ = blend(*files, share)
    old, new = (pocket.load(file).state_dict() for file in files)
    for name in tensors.keys() - {TOKENS}:
        torch.testing.assert_close(tensors[name], (1 - share) * old[name] + share * new[name], atol=1e-6, rtol=1e-6)


def test_a_token_that_one_has_not_seen_is_the_other_s(files: tuple[Path, Path], tmp_path: Path) -> None:
    tensors, ids = blend(*files, 0.5)
    assert ids == load_file(pocket.weights())["token_ids"].tolist()
    write(tensors, ids, tmp_path / "blend.safetensors")
    rows, old, new = (pocket.load(file).state_dict()[TOKENS] for file in (tmp_path / "blend.safetensors", *files))
    torch.testing.assert_close(rows[ids[0]], old[ids[0]], atol=ROUNDED, rtol=0)
    torch.testing.assert_close(rows[ids[-1]], new[ids[-1]], atol=ROUNDED, rtol=0)
    torch.testing.assert_close(rows[ids[7]], (old[ids[7]] + new[ids[7]]) / 2, atol=ROUNDED, rtol=0)
