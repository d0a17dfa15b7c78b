"""Parity of explanations: their sums, run by ONNX Runtime, are the cosines of the PyTorch model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attri.export.parity.outputs import BATCH, run_model
from attri.export.parity.report import Stage
from attri.runtime.bundle import EXPLAIN, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import UsageError
from attri.train.model import AttriPrompt
from attri.train.model.towers.contributions import contributions

__all__ = ["GATE", "check_explained", "compare_explanations"]

GATE = 1e-4  # largest difference of a cosine (our choice); float32 leaves about 1e-6


@torch.no_grad()
def check_explained(model: AttriPrompt) -> None:
    """Check that the model's image tower can be divided, which is known once an image went through it.

    Raises:
        UsageError: it cannot; says why.
    """
    side = model.backbone.preprocess().size
    try:
        contributions(model.vision.tower, torch.zeros(1, 3, side, side))
    except UsageError as error:
        raise UsageError(f"{model.backbone.public_name} cannot be explained: {error}; leave out `explain`") from error


def compare_explanations(model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32]) -> Stage:
    """Compare sums over patches and rest with the model's cosines, for images [I, 3, S, S] and the bundle's labels."""
    facts = bundle.prompt.facts
    reference = run_model(model, pixels, facts.labels, facts.template, bundle.prompt)
    engine = OrtEngine(bundle.file(EXPLAIN), "cpu")
    parts = []
    for start in range(0, len(pixels), BATCH):
        patches, rest = engine.run({"pixels": pixels[start : start + BATCH]})
        whole = patches.sum((1, 2)) + rest  # [B, D]
        unit = np.linalg.norm(whole, axis=-1, keepdims=True)
        text = reference.text[start : start + BATCH]  # [B, C, D]
        of_patches = np.einsum("bhwd,bcd->bchw", patches, text).sum((2, 3))
        parts.append((of_patches + np.einsum("bd,bcd->bc", rest, text)) / unit)
    difference = np.abs(np.concatenate(parts) - reference.cosines)  # [I, C]
    return Stage.of(ParityStage.EXPLANATIONS, "difference", difference, GATE, "worst")
