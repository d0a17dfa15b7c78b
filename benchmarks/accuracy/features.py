"""Features of the frozen backbone on disk, so that every method, seed and protocol encodes an image once.

An image's training views are seeded by the image alone: seeds differ in the images that they draw and in their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from attri.runtime._util.atomic import replacing
from attri.train.data.dataset import LabelledImage
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.features import Features, compute

AT_ONCE = 512  # images per file: what a stopped run loses


class FeatureStore:
    """Image features and cluster centres by image and number of views.

    Args:
        folder: of the files; one backbone and one clustering have a folder of their own below it.
        model: its backbone and its retrieval make the features.
        say: called with a line where something has to be encoded.
    """

    def __init__(self, folder: Path, model: AttriPrompt, say: Callable[[str], object] = lambda line: None) -> None:
        config = model.config
        how = [config.clusters, config.lloyd_steps, config.kmeans_init, model.vision.sources]
        digest = hashlib.sha256(f"{model.backbone.sha256} {how}".encode()).hexdigest()[:12]
        self.folder, self.model, self.say = folder / digest, model, say
        self.known: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}  # [V, D], [V, L, K, D]
        for file in sorted(self.folder.glob("*.safetensors")):
            self._read(file)

    def get(self, images: list[LabelledImage], views: int = 1) -> Features:
        """Features of images in their order, with their targets; those that nobody has asked for yet are encoded."""
        missing = [image for image in dict.fromkeys(images) if (str(image.path), views) not in self.known]
        for start in range(0, len(missing), AT_ONCE):
            self.say(f"encoding {len(missing) - start} images in {views} views")
            self._encode(missing[start : start + AT_ONCE], views)
        found = [self.known[str(image.path), views] for image in images]
        features, centres = (torch.stack([pair[part] for pair in found]) for part in (0, 1))
        return Features(features, centres, torch.tensor([i.target for i in images]), list(range(len(images))), [])

    def _encode(self, images: list[LabelledImage], views: int) -> None:
        data = compute(self.model, images, views)
        assert not data.skipped, data.skipped
        names = [str(image.path) for image in images]
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{hashlib.sha256(json.dumps([names, views]).encode()).hexdigest()[:16]}.safetensors"
        with replacing(file) as temporary:
            tensors = {"features": data.features.contiguous(), "centres": data.centres.contiguous()}
            save_file(tensors, temporary, {"images": json.dumps(names), "views": str(views)})
        self._read(file)

    def _read(self, file: Path) -> None:
        with safe_open(file, "pt") as stream:
            metadata = stream.metadata()
            features, centres = stream.get_tensor("features"), stream.get_tensor("centres")
        names, views = json.loads(metadata["images"]), int(metadata["views"])
        for name, *pair in zip(names, features, centres, strict=True):
            self.known[name, views] = (pair[0], pair[1])
