"""Images and words of pool entries, held against loops that say the same slowly."""

from __future__ import annotations

import torch
from PIL import Image

from attri.train.config import PromptConfig
from attri.train.model.blocks import l2_normalize
from attri.train.model.pool import PromptPool
from attri.train.report.entry_sheet import draw_entries, entry_images, nearest_words


def unit(*shape: int) -> torch.Tensor:
    return l2_normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))))


def test_the_images_of_an_entry_are_those_that_retrieve_it_nearest_first():
    pool = PromptPool(PromptConfig(pool_size=5), depth=3, width=4, joint=8)
    centres, keys = unit(30, 3, 2, 8), pool.keys_of_blocks()[:1].detach()
    paths = [f"{number}.png" for number in range(30)]
    found = entry_images(centres, keys, pool.retrieve(centres), paths)
    for entry in range(5):
        cosines = {}
        for path, image in zip(paths, centres, strict=True):
            # Every block's centres look among the same keys; those whose nearest key is this one retrieve it.
            every = [max(float(c @ keys[0, entry]) for c in block) for block in image if nearest(block, keys, entry)]
            if every:
                cosines[path] = max(every)
        expected = sorted(cosines, key=lambda path: -cosines[path])[:9]
        assert [row["image"] for row in found[0][entry]] == expected


def nearest(block: torch.Tensor, keys: torch.Tensor, entry: int) -> bool:
    return any(int((keys[0] @ centre).argmax()) == entry for centre in block)


def test_near_words_are_those_that_set_an_entry_apart():
    common, directions = 3 * unit(1, 16), torch.eye(16)[:4]
    keys = l2_normalize(directions + common)[None]
    words = l2_normalize(directions - common)  # on the other side of the gap
    assert [near[0] for near in nearest_words(keys, words, ["a", "b", "c", "d"])[0]] == ["a", "b", "c", "d"]


def test_the_sheet_is_drawn_also_where_an_image_has_gone(tmp_path, image_files):
    rows = [{"image": str(image_files[0]), "cosine": 0.5}, {"image": "gone.png", "cosine": 0.4}]
    draw_entries([[0.7, 0.3, 0.0]], [[rows, rows[:1], []]], tmp_path / "entries.png")
    with Image.open(tmp_path / "entries.png") as sheet:
        assert sheet.width > sheet.height
