"""Batches for the pocket backbone: augmented images, captions, and which caption is true of which image."""

import functools
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attri.train.pocket import CONFIG, MEAN, STD
from tools.pocket import emoji, photos
from tools.pocket.augment import augment, photograph
from tools.pocket.concepts import Concept, from_table, key
from tools.pocket.render import open_square
from tools.pocket.words import Emoji

TEMPLATES = ["a photo of a {}."] * 4 + ["a photo of the {}."] * 2 + ["a photo of {}.", "a picture of a {}.", "{}", "{}"]
TEMPLATES += ["an icon of a {}.", "a drawing of a {}.", "a picture of the {}.", "an emoji of a {}.", "this is a {}."]
# The share of a batch that each source has. Icons that are named as an emoji is are among that emoji's images.
SHARES = {"emoji": 0.66, "drawings": 0.14, "grocery": 0.1, "clothing": 0.05, "trashnet": 0.05, "caltech101": 1.0}


class Batch(NamedTuple):
    """What one step learns from."""

    images: Tensor  # [B, 3, H, W]
    concepts: Tensor  # [B]
    captions: list[str]  # one of each image
    true: Tensor  # [B, C]: of which concepts each caption is true, as a distribution: rows sum to 1


class Data(Dataset[Batch]):
    """The images, the concepts and their phrases. Item `step` is the batch of that step, the same whenever asked."""

    def __init__(self, cache: Path, batch: int, seed: int, more: Mapping[str, Path] | None = None) -> None:
        arrays = np.load(cache)
        self.batch, self.seed = batch, seed
        self.emoji = from_table(Emoji, json.loads(str(arrays["emoji"])))
        self.concepts = from_table(Concept, json.loads(str(arrays["concepts"])))
        self.styles: list[str] = arrays["styles"].tolist()
        self.pixels = torch.from_numpy(arrays["pixels"])  # [N, H, W, 4] uint8
        self.rows: list[list[int]] = arrays["rows"].tolist()  # style, concept, is a skin tone
        self.photos = torch.from_numpy(arrays["photos"])  # [M, H', W', 3] uint8
        self.photo_rows = [(photos.SETS[source], concept) for source, concept in arrays["photo_rows"].tolist()]
        for name, folder in (more or {}).items():
            self._add_photos(name, folder)
        self.sources = self._sources()
        phrases = [one.phrases for one in self.concepts]
        self.phrases = sorted({phrase for group in phrases for phrase in group})
        self.number = {phrase: number for number, phrase in enumerate(self.phrases)}
        self.true = torch.zeros(len(self.phrases), len(self.concepts), dtype=torch.bool)  # [P, C]
        for index, group in enumerate(phrases):
            self.true[[self.number[phrase] for phrase in group], index] = True
        kinds = sorted({one.kinds[0] for one in self.concepts if one.kinds})
        number = {kind: place for place, kind in enumerate(kinds)}
        self.kind = torch.tensor([number[one.kinds[0]] if one.kinds else -1 for one in self.concepts])  # [C]
        self.flippable = torch.tensor([one.flippable for one in self.concepts])
        self.coloured = torch.tensor([one.coloured for one in self.concepts])

    def _add_photos(self, name: str, folder: Path) -> None:
        known = {key(one.names[0]): index for index, one in enumerate(self.concepts)}
        pixels = []
        for photo in photos.photos_of_set(name, folder):
            if photo.part == "train":
                index = known.setdefault(key(photo.concept.names[0]), len(self.concepts))
                self.concepts += [photo.concept] if index == len(self.concepts) else []
                self.photo_rows.append((name, index))
                pixels.append(open_square(photo.path, self.photos.shape[1]))
        self.photos = torch.cat([self.photos, torch.from_numpy(np.stack(pixels))])

    def _sources(self) -> list[tuple[str, list[int], list[float]]]:
        """Every source's name, its concepts, and how often each is drawn."""
        self.drawn: list[dict[int, list[int]]] = [{} for _ in self.concepts]  # images by style, skin tones at -1
        for image, (style, index, variant) in enumerate(self.rows):
            if self.styles[style] not in emoji.UNSEEN:
                self.drawn[index].setdefault(-1 if variant else style, []).append(image)
        self.taken: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))  # photos by source
        for image, (name, index) in enumerate(self.photo_rows):
            self.taken[name][index].append(image)
        flags = [0.35 if "country" in one.subcategory else 1.0 for one in self.emoji]
        others = [index for index in range(len(self.emoji), len(self.concepts)) if self.drawn[index]]
        sources = [("emoji", list(range(len(self.emoji))), flags), ("drawings", others, [1.0] * len(others))]
        for name, images in self.taken.items():  # the root lies between equal classes and equal photographs
            sources.append((name, list(images), [len(numbers) ** 0.5 for numbers in images.values()]))
        return sources

    def __len__(self) -> int:
        return 1_000_000_000  # steps are not counted here

    def __getitem__(self, step: int) -> Batch:
        random.seed(self.seed * 1_000_003 + step)
        torch.manual_seed(self.seed * 1_000_003 + step)
        return self.sample()

    def sample(self) -> Batch:
        """One batch from the state of the random generators: first the drawings, then the photographs."""
        shares = [SHARES[name] for name, _, _ in self.sources]
        places = sorted(random.choices(range(len(shares)), shares, k=self.batch))
        drawings, taken, concepts = [], [], []
        for name, members, weights in (self.sources[place] for place in places):
            index = random.choices(members, weights)[0]
            concepts.append(index)
            if name in self.taken:
                taken.append(random.choice(self.taken[name][index]))
            else:
                drawings.append(self._drawing(index))
        chosen = torch.tensor(concepts)
        flippable, coloured, split = self.flippable[chosen], self.coloured[chosen], len(drawings)
        behind = self.photos[random.choices(range(len(self.photos)), k=split)].permute(0, 3, 1, 2).float() / 255
        drawn = augment(premultiplied(self.pixels[drawings]), flippable[:split], coloured[:split], behind)
        seen = self.photos[taken].permute(0, 3, 1, 2).float() / 255
        images = torch.cat([drawn, photograph(seen, flippable[split:], coloured[split:], drawn.shape[-1])])
        return Batch(normal(images), chosen, *self._captions(concepts))

    def _drawing(self, index: int) -> int:
        styles = self.drawn[index]
        tones = -1 in styles and random.random() < 0.1
        return random.choice(styles[-1] if tones else random.choice([styles[style] for style in styles if style >= 0]))

    def _captions(self, concepts: list[int]) -> tuple[list[str], Tensor]:
        lists = random.random() < 0.1  # now and then, so that late positions are trained too; long captions cost time
        said = [self._say(index, lists) for index in concepts]
        true = torch.stack([self.true[phrases].all(0) for phrases in said]).float()  # [B, C]
        true /= true.sum(1, keepdim=True)
        return [random.choice(TEMPLATES).format(", ".join(self.phrases[p] for p in phrases)) for phrases in said], true

    def _say(self, index: int, lists: bool) -> list[int]:
        one, named = self.concepts[index], random.random() < 0.65
        other = random.choice((one.kinds[:1], one.kinds, one.tags or one.kinds))
        pool = one.names if named or not other else other
        said = [one.names[0] if named and random.random() < 0.6 else random.choice(pool)]
        if lists and not named:
            said += random.sample(one.phrases, min(2, len(one.phrases)))
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
        """[N, T] with T a little over the longest caption: causal attention never looks past EOT, so that is the same.

        Few different lengths, because a compiled text tower is compiled anew for each.
        """
        rows = [self.encode(caption) for caption in captions]
        length = min(-(-max(map(len, rows)) // 12) * 12, CONFIG["text_cfg"]["context_length"])
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])
