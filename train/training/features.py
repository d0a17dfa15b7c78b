"""The feature cache: CLIP is frozen, so image features and cluster centres are computed once.

Under torchrun every process encodes a share of the images and receives all features.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attri.runtime.errors import ImageError, UsageError
from attri.runtime.images import crop_image, loaded_image
from attri.runtime.preprocess import Preprocess
from attri.train.data.read import LabelledImage
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training import distributed
from attri.train.training.progress import Progress

BATCH = 64
_LOGGER = logging.getLogger("attri")


@dataclass(frozen=True)
class Features:
    """I images in V views, of those that were asked for: `rows` says which, `skipped` why others are missing.

    features: unit [I, V, D]; centres: unit [I, V, L, K, D]; targets [I]
    """

    features: Tensor
    centres: Tensor
    targets: Tensor
    rows: list[int]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, shots: int) -> Features:
        """Return the first `shots` images of each class."""
        seen: dict[int, int] = {}
        places = []
        for place, target in enumerate(self.targets.tolist()):
            seen[target] = seen.get(target, 0) + 1
            if seen[target] <= shots:
                places.append(place)
        rows = [self.rows[place] for place in places]
        return Features(self.features[places], self.centres[places], self.targets[places], rows, self.skipped)


class FeatureCache:
    """Features that several trainings and evaluations share; each name keeps its latest set, so memory is bounded."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.sets: dict[str, tuple[object, Features]] = {}

    def get(self, name: str, model: AttriPrompt, images: list[LabelledImage], **how: int) -> Features:
        """Return cached features or `compute` them with `how` (views, seed); `name` labels the progress bar."""
        of_retrieval = (
            tuple(model.vision.sources),
            model.config.clusters,
            model.config.lloyd_steps,
            model.config.kmeans_init,
        )
        key = (model.backbone.sha256, of_retrieval, [image.path for image in images], how)
        known = next((features for other, features in self.sets.values() if other == key), None)
        if known is None:
            self.sets.pop(name, None)
            with self.progress.bar(name, len(images)) as bar:
                known = compute(model, images, progress=bar, **how)
            self.sets[name] = key, known
        return replace(known, targets=torch.tensor([images[row].target for row in known.rows]))


def compute(
    model: AttriPrompt,
    images: list[LabelledImage],
    views: int = 1,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Features:
    """Encode every image once (views = 1: as it is) or in `views` augmented views, seeded by image and view.

    Images that cannot be read are logged, listed in `skipped` and left out: all of them, it may be.
    """
    rows = torch.arange(len(images)).tensor_split(distributed.size())[distributed.rank()].tolist()
    shares: list[Any] = distributed.gather(_encode(model, [images[row] for row in rows], rows, views, seed, progress))
    features, centres, kept, skipped = shares[0]
    if len(shares) > 1:
        features, centres = (torch.cat([share[part] for share in shares]) for part in (0, 1))
        kept, skipped = (list(chain.from_iterable(share[part] for share in shares)) for part in (2, 3))
    if distributed.rank() == 0:
        for reason in skipped:
            _LOGGER.warning("skipped: %s", reason)
    return Features(features, centres, torch.tensor([images[row].target for row in kept]), kept, skipped)


def require_classes(data: Features, classes: list[str], known: int = 0) -> None:
    """Check that every class has a training image that could be read, but for the first, `known` ones.

    Raises:
        UsageError: a class has none; it is named.
    """
    lost = set(range(known, len(classes))) - set(data.targets.tolist())
    if lost:
        names = ", ".join(classes[target] for target in sorted(lost))
        raise UsageError(f"no training image of {names} can be read: a class needs at least one")
    if not len(data):
        raise UsageError("no training image can be read: at least one is needed")


def _encode(
    model: AttriPrompt,
    images: list[LabelledImage],
    rows: list[int],
    views: int,
    seed: int,
    progress: Callable[[int], object],
) -> tuple[Tensor, Tensor, list[int], list[str]]:
    """Encode one process's share: features, centres, rows of the readable images, reasons for the others."""
    device, vision = model.pool.keys.device, model.backbone
    width, blocks = vision.joint_width, model.depth
    features = [torch.empty(0, views, width)]
    centres = [torch.empty(0, views, blocks, model.config.clusters, width)]
    kept: list[int] = []
    skipped: list[str] = []
    position = 0
    for batch in _read_ahead(images, model.backbone.preprocess(), views, seed):
        good = [(rows[position + i], pixels) for i, pixels in enumerate(batch) if not isinstance(pixels, str)]
        skipped += [pixels for pixels in batch if isinstance(pixels, str)]
        if good:
            pixels = torch.from_numpy(np.concatenate([pixels for _, pixels in good])).to(device)  # [n V, 3, S, S]
            with torch.inference_mode():
                f, c = model.encode_image(pixels)
            features.append(f.reshape(-1, views, *f.shape[1:]).cpu())
            centres.append(c.reshape(-1, views, *c.shape[1:]).cpu())
            kept += [row for row, _ in good]
        position += len(batch)
        progress(len(batch) * distributed.size())
    return torch.cat(features), torch.cat(centres), kept, skipped


def _read_ahead(
    images: list[LabelledImage], preprocess: Preprocess, views: int, seed: int
) -> Iterator[list[np.ndarray | str]]:
    """Decode in threads, one batch ahead; yields per image pixels float32 [V, 3, S, S] or why it cannot be read."""

    def read(item: LabelledImage) -> np.ndarray | str:
        name = f"{seed} {item.path.parent.name}/{item.path.name}"
        try:
            with loaded_image(item.path) as image:
                if views == 1:
                    return preprocess(image)[None]
                return np.stack([preprocess(augment(image, f"{name} {view}")) for view in range(views)])
        except ImageError as error:
            return str(error)

    size = max(1, BATCH // views)
    chunks = [images[i : i + size] for i in range(0, len(images), size)]
    with ThreadPoolExecutor(2) as pool:
        ahead = [[pool.submit(read, image) for image in chunk] for chunk in chunks[:1]]
        for following in [*chunks[1:], []]:
            ahead.append([pool.submit(read, image) for image in following])
            yield [future.result() for future in ahead.pop(0)]


def augment(image: Image.Image, seed: str) -> Image.Image:
    """A random crop of 50-100% of the area with a side ratio up to 4:3, mirrored half of the time (our choice)."""
    generator = random.Random(seed)
    area, ratio = generator.uniform(0.5, 1.0), generator.uniform(0.75, 1 / 0.75)
    width = min(image.width, max(1, round((image.width * image.height * area * ratio) ** 0.5)))
    height = min(image.height, max(1, round((image.width * image.height * area / ratio) ** 0.5)))
    left, top = generator.randint(0, image.width - width), generator.randint(0, image.height - height)
    crop = crop_image(image, (left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop
