"""Frozen features, computed once: CLIP never changes, so a picture's feature and centres never do."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attri.runtime.errors import ImageError, UsageError
from attri.runtime.images import load_image
from attri.runtime.preprocess import Preprocess
from attri.train.data import Picture
from attri.train.model import AttriPrompt

BATCH = 64
logger = logging.getLogger("attri")


@dataclass(frozen=True)
class Features:
    """I pictures in V views. features: unit [I, V, D]; centres: unit [I, V, L, K, D]; targets [I]; skipped: why."""

    features: Tensor
    centres: Tensor
    targets: Tensor
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.targets)


def compute(
    model: AttriPrompt,
    pictures: list[Picture],
    views: int,
    seed: int,
    progress: Callable[[int], object] = lambda count: None,
) -> Features:
    """Encode every picture once (views = 1: as it is) or in `views` augmented views, seeded by picture and view.

    Pictures that cannot be read are logged, listed in `skipped` and left out.

    Raises:
        UsageError: a class has no picture that can be read.
    """
    preprocess = model.backbone.preprocess()
    device = model.pool.keys.device
    features, centres, targets, skipped = [], [], [], []
    for batch in _read_ahead(pictures, preprocess, views, seed):
        good = [(target, pixels) for target, pixels in batch if not isinstance(pixels, str)]
        skipped += [pixels for _, pixels in batch if isinstance(pixels, str)]
        if good:
            pixels = torch.from_numpy(np.concatenate([pixels for _, pixels in good])).to(device)  # [n V, 3, S, S]
            with torch.inference_mode():
                f, c = model.encode_image(pixels)
            features.append(f.reshape(-1, views, *f.shape[1:]).cpu())
            centres.append(c.reshape(-1, views, *c.shape[1:]).cpu())
            targets += [target for target, _ in good]
        progress(len(batch))
    for reason in skipped:
        logger.warning("skipped: %s", reason)
    lost = {p.target for p in pictures} - set(targets)
    if lost:
        names = sorted({p.path.parent.name for p in pictures if p.target in lost})
        raise UsageError(f"no picture of {', '.join(names)} can be read: a class needs at least one")
    if not features:
        raise UsageError("there are no pictures to encode")
    return Features(torch.cat(features), torch.cat(centres), torch.tensor(targets), skipped)


def _read_ahead(
    pictures: list[Picture], preprocess: Preprocess, views: int, seed: int
) -> Iterator[list[tuple[int, np.ndarray | str]]]:
    """Batches of (target, pixels float32 [V, 3, S, S], or why there are none), decoded in threads one batch ahead."""

    def read(picture: Picture) -> tuple[int, np.ndarray | str]:
        try:
            image = load_image(picture.path)
        except ImageError as error:
            return picture.target, str(error)
        if views == 1:
            return picture.target, preprocess(image)[None]
        name = f"{seed} {picture.path.parent.name}/{picture.path.name}"
        return picture.target, np.stack([preprocess(augment(image, f"{name} {view}")) for view in range(views)])

    size = max(1, BATCH // views)
    chunks = [pictures[i : i + size] for i in range(0, len(pictures), size)]
    with ThreadPoolExecutor(2) as pool:
        ahead = [[pool.submit(read, picture) for picture in chunk] for chunk in chunks[:1]]
        for following in [*chunks[1:], []]:
            ahead.append([pool.submit(read, picture) for picture in following])
            yield [future.result() for future in ahead.pop(0)]


def augment(image: Image.Image, seed: str) -> Image.Image:
    """A random crop of 50-100% of the area with a side ratio up to 4:3, mirrored half of the time (our choice)."""
    generator = random.Random(seed)
    area, ratio = generator.uniform(0.5, 1.0), generator.uniform(0.75, 1 / 0.75)
    width = min(image.width, max(1, round((image.width * image.height * area * ratio) ** 0.5)))
    height = min(image.height, max(1, round((image.width * image.height * area / ratio) ** 0.5)))
    left, top = generator.randint(0, image.width - width), generator.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop
