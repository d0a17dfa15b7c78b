"""Batches for the pocket backbone: augmented images, captions, and which caption is true of which image."""

import functools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

from attri.train.pocket import CONFIG, MEAN, STD
from tools.pocket.augment import augment
from tools.pocket.collect import NAMES, UNSEEN
from tools.pocket.words import Emoji, from_table

TEMPLATES = ["a photo of a {}."] * 4 + ["a photo of the {}."] * 2 + ["a photo of {}.", "a picture of a {}.", "{}", "{}"]
TEMPLATES += ["an icon of a {}.", "a drawing of a {}.", "a picture of the {}.", "an emoji of a {}.", "this is a {}."]


class Data:
    """The cached images and words, and which phrase is true of which emoji."""

    def __init__(self, cache: Path) -> None:
        arrays = np.load(cache)
        self.emoji: list[Emoji] = from_table(json.loads(str(arrays["emoji"])))
        self.pixels = torch.from_numpy(arrays["pixels"])  # [N, H, W, 4] uint8
        self.rows: list[list[int]] = arrays["rows"].tolist()  # style, emoji, is a skin tone
        self.phrases = sorted({phrase for one in self.emoji for phrase in (*one.names, *one.kinds, *one.tags)})
        self.number = {phrase: number for number, phrase in enumerate(self.phrases)}
        self.true = torch.zeros(len(self.phrases), len(self.emoji), dtype=torch.bool)  # [P, E]
        for index, one in enumerate(self.emoji):
            self.true[[self.number[phrase] for phrase in (*one.names, *one.kinds, *one.tags)], index] = True
        self.styles: list[dict[int, list[int]]] = [{} for _ in self.emoji]  # images by style, skin tones at -1
        for image, (style, index, variant) in enumerate(self.rows):
            if NAMES[style] not in UNSEEN:
                self.styles[index].setdefault(-1 if variant else style, []).append(image)
        self.weight = torch.tensor([0.35 if "country" in one.subcategory else 1.0 for one in self.emoji])
        kinds = sorted({one.kinds[0] for one in self.emoji})
        self.kind = torch.tensor([kinds.index(one.kinds[0]) for one in self.emoji])  # [E]
        self.flippable = torch.tensor([one.flippable for one in self.emoji])
        self.coloured = torch.tensor([one.coloured for one in self.emoji])

    def sample(self, batch: int) -> tuple[Tensor, Tensor, list[str], Tensor]:
        """Images [B, 3, H, W], their emoji [B], a caption of each, and of which emoji each caption is true [B, E]."""
        emoji = torch.multinomial(self.weight, batch)
        chosen = [random.choice(self._images(index)) for index in emoji.tolist()]
        images = augment(premultiplied(self.pixels[chosen]), self.flippable[emoji], self.coloured[emoji])
        lists = random.random() < 0.1  # now and then, so that late positions are trained too; long captions cost time
        said = [self._say(index, lists) for index in emoji.tolist()]
        true = torch.stack([self.true[phrases].all(0) for phrases in said])  # [B, E]
        captions = [random.choice(TEMPLATES).format(", ".join(self.phrases[p] for p in phrases)) for phrases in said]
        return normal(images), emoji, captions, true

    def _images(self, index: int) -> list[int]:
        styles = self.styles[index]
        tones = -1 in styles and random.random() < 0.1
        return styles[-1] if tones else random.choice([styles[style] for style in styles if style >= 0])

    def _say(self, index: int, lists: bool) -> list[int]:
        one, named = self.emoji[index], random.random() < 0.6
        pool = one.names if named else random.choice((one.kinds[:1], one.kinds, one.tags or one.kinds))
        said = [one.names[0] if named and random.random() < 0.6 else random.choice(pool)]
        if lists and not named:
            said += random.sample((*one.names, *one.tags, *one.kinds), 2)
        return [self.number[phrase] for phrase in dict.fromkeys(said)]


def premultiplied(pixels: Tensor) -> Tensor:
    """[B, H, W, 4] uint8 -> [B, 4, H, W] float."""
    rgba = pixels.permute(0, 3, 1, 2).float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)


def on_white(pixels: Tensor) -> Tensor:
    """RGBA images as the model's input, without augmentation."""
    rgba = premultiplied(pixels)
    return normal(rgba[:, :3] + 1 - rgba[:, 3:])


def normal(images: Tensor) -> Tensor:
    """Subtract CLIP's mean and divide by its deviation."""
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Vocabulary:
    """The tokens that occur in training. Training on these rows alone spares the optimizer 40,000 idle ones."""

    def __init__(self, phrases: Sequence[str]) -> None:
        length, size = CONFIG["text_cfg"]["context_length"], CONFIG["text_cfg"]["vocab_size"]
        self.tokenizer = open_clip.SimpleTokenizer(context_length=length)
        words = [*(template.format(",") for template in TEMPLATES), *phrases]
        self.ids = sorted({0, size - 2, size - 1} | {t for w in words for t in self.tokenizer.encode(w)})
        self.row = {token: row for row, token in enumerate(self.ids)}
        self.encode = functools.lru_cache(maxsize=None)(self._encode)

    def _encode(self, caption: str) -> list[int]:
        # Rows keep the order of the ids, so EOT stays the largest and open_clip still finds it by argmax.
        unknown = self.row[0]
        return [self.row.get(token, unknown) for token in self.tokenizer(caption)[0].tolist() if token != 0]

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """[N, T] with T the longest caption: causal attention never looks past EOT, so shorter is the same."""
        rows = [torch.tensor(self.encode(caption)) for caption in captions]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
