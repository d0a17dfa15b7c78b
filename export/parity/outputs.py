"""Outputs of the PyTorch model and of a bundle on the same images, for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.classifier import Classifier
from attri.runtime.engines.base import Engine
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import TextCache
from attri.train.model import AttriPrompt

__all__ = ["Outputs", "open_unfinished", "run_bundle", "run_model"]

BATCH = 16  # images at once (our choice)


@dataclass(frozen=True, eq=False)
class Outputs:
    """Everything that one side computed."""

    scale: float  # of logits
    features: NDArray[np.float32]  # of images, [I, D]
    retrieved: NDArray[np.int32]  # pool entries, [I, L, M]
    text: NDArray[np.float32]  # text features at the reference's pool entries, [I, C, D]
    cosines: NDArray[np.float32]  # of image and text features, at the side's own pool entries, [I, C]


def open_unfinished(
    bundle: Bundle,
    files: tuple[str, str] = (VISION, TEXT),
    wrap: Callable[[Engine], Engine] = lambda engine: engine,
    integers: bool = True,
) -> Classifier:
    """Open the runtime's classifier, on the CPU and without a cache, on a bundle without a manifest on disk.

    Args:
        bundle: may be unfinished.
        files: the vision and the text graph in the bundle.
        wrap: called on each engine; returns the engine to use.
        integers: as of `OrtEngine`.
    """
    every = (*files, *bundle.graph_files[len(files) :])
    vision, text, *label = (wrap(OrtEngine(bundle.file(name), "cpu", integers=integers)) for name in every)
    return Classifier(bundle, vision, text, bundle.prompt.facts.labels, TextCache(0), label=label[0] if label else None)


@torch.no_grad()
def run_model(
    model: AttriPrompt, pixels: NDArray[np.float32], labels: list[str], template: str, prompt: Prompt | None = None
) -> Outputs:
    """Run the PyTorch model.

    Args:
        model: the reference.
        pixels: of the images [I, 3, S, S].
        labels: to encode.
        template: the sentence around each label.
        prompt: selects the pool entries that images get; None takes those nearest to their centres.
    """
    tokens = model.backbone.reader.encode(labels, template)
    parts = []
    for batch in torch.split(torch.from_numpy(pixels), BATCH):
        features, centres = model.encode_image(batch)
        retrieved = model.pool.retrieve(centres).int()
        if prompt is not None:
            retrieved = torch.from_numpy(prompt.select(retrieved.numpy()))
        text = model.encode_text(tokens, retrieved)
        cosines = (text @ features[:, :, None]).squeeze(-1)  # [B, C]
        parts.append((features.numpy(), retrieved.numpy(), text.numpy(), cosines.numpy()))
    return Outputs(model.backbone.logit_scale, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def run_bundle(classifier: Classifier, pixels: NDArray[np.float32], reference: NDArray[np.int32]) -> Outputs:
    """Run a bundle on images [I, 3, S, S].

    Args:
        classifier: of `open_unfinished`.
        pixels: the images.
        reference: pool entries that the model retrieves, [I, L, M]; text features are computed at these, cosines at
            those that the bundle retrieves itself.
    """
    parts = []
    for start in range(0, len(pixels), BATCH):
        rows = slice(start, start + BATCH)
        features, retrieved = classifier.encode_image(pixels[rows])
        text = classifier.encode_text(reference[rows])
        own = text if np.array_equal(retrieved, reference[rows]) else classifier.encode_text(retrieved)
        parts.append((features, retrieved, np.stack(text), np.einsum("icd,id->ic", np.stack(own), features)))
    scale = classifier.bundle.manifest.logit_scale
    return Outputs(scale, *(np.concatenate(part) for part in zip(*parts, strict=True)))
