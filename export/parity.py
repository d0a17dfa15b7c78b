"""Does the bundle say what the PyTorch model says? Compared stage by stage, on real pictures, with the runtime itself.

The reference reads the same files through the same preprocessing. Text features are compared at the reference's
retrieved entries, so that one flipped near-tie does not hide, or fake, an error elsewhere; flips are counted apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attri.runtime.classifier import Classifier
from attri.runtime.errors import ImageError, ParityError, UsageError
from attri.runtime.prompts import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.model import AttriPrompt

BATCH = 16
TIE = 1e-5  # two best cosines closer than this are a tie: either class may come first


@dataclass(frozen=True)
class Gates:
    """Least values that a bundle must reach (DESIGN.md, section 8)."""

    cosine: float  # of image features and of text features
    retrieved: float  # share of equal entries
    top1: float  # share of equal best classes, ties left out

    @classmethod
    def of(cls, precision: str) -> Gates:
        return {
            "fp32": cls(0.99999, 0.999, 1.0),
            "fp16": cls(0.999, 0.99, 0.99),
            "int8": cls(0.98, 0.95, 0.97),
        }[precision]


@dataclass(frozen=True)
class Stage:
    """One comparison. worst is over pictures; held says whether it reached its gate."""

    name: str
    worst: float
    mean: float
    gate: float
    figure: str  # which of the two the gate is for

    @property
    def held(self) -> bool:
        return bool(getattr(self, self.figure) >= self.gate)  # NaN compares false


@dataclass(frozen=True)
class Report:
    stages: list[Stage]
    pictures: int
    labels: int

    def check(self) -> None:
        """Raises ParityError that names the first stage whose gate did not hold."""
        for stage in self.stages:
            if not stage.held:
                value = getattr(stage, stage.figure)
                raise ParityError(
                    f"the bundle does not agree with the PyTorch model: {stage.name} is {value:.9f},"
                    f" the gate is {stage.gate}; nothing was written"
                )

    def to_dict(self) -> dict[str, Any]:
        stages = [asdict(stage) | {"held": stage.held} for stage in self.stages]
        return {"pictures": self.pictures, "labels": self.labels, "stages": stages}

    def table(self) -> str:
        rows = [f"{'parity':<24}{'worst':>12}{'mean':>12}{'gate':>12}  {self.pictures} pictures, {self.labels} labels"]
        for stage in self.stages:
            gate = f"{stage.figure} {stage.gate:g}"
            held = "held" if stage.held else "MISSED"
            rows.append(f"{stage.name:<24}{stage.worst:>12.7f}{stage.mean:>12.7f}{gate:>18}  {held}")
        return "\n".join(rows)


@dataclass(frozen=True)
class Stages:
    """What one side computed. features [I, D], retrieved [I, L, M], text [I, C, D], cosines [I, C]"""

    features: NDArray[np.float32]
    retrieved: NDArray[np.int32]
    text: NDArray[np.float32]
    cosines: NDArray[np.float32]


def compare(model: AttriPrompt, folder: Path, pixels: NDArray[np.float32], gates: Gates) -> Report:
    """Run the model and the bundle in `folder` over pictures [I, 3, S, S]."""
    classifier = Classifier.load(folder, device="cpu")
    reference = run_model(model, pixels, list(classifier.labels), classifier.template)
    ours = run_bundle(classifier, pixels, reference.retrieved)
    return judge(reference, ours, gates)


def read_pixels(model: AttriPrompt, pictures: list[Path]) -> NDArray[np.float32]:
    """The pictures that can be read, [I, 3, S, S]. Raises UsageError where there are none."""
    preprocess = model.backbone.preprocess()
    read = []
    for path in pictures:
        try:
            read.append(preprocess(path))
        except ImageError:
            continue
    if not read:
        raise UsageError("parity needs real pictures and none could be read: name a folder with --parity-data")
    return np.stack(read)


@torch.no_grad()
def run_model(model: AttriPrompt, pixels: NDArray[np.float32], labels: list[str], template: str) -> Stages:
    words = encode_labels(Tokenizer(), labels, template, model.backbone.context_length)
    parts = []
    for batch in torch.split(torch.from_numpy(pixels), BATCH):
        features, centres = model.encode_image(batch)
        retrieved = model.pool.retrieve(centres)
        text = model.encode_text(words, retrieved)
        cosines = (text @ features[:, :, None]).squeeze(-1)
        parts.append((features.numpy(), retrieved.int().numpy(), text.numpy(), cosines.numpy()))
    return Stages(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def run_bundle(classifier: Classifier, pixels: NDArray[np.float32], reference: NDArray[np.int32]) -> Stages:
    """Text features at the reference's entries, cosines at the bundle's own."""
    parts = []
    for start in range(0, len(pixels), BATCH):
        rows = slice(start, start + BATCH)
        features, retrieved = classifier.encode_image(pixels[rows])
        text = classifier.encode_text(reference[rows])
        own = text if np.array_equal(retrieved, reference[rows]) else classifier.encode_text(retrieved)
        parts.append((features, retrieved, np.stack(text), np.einsum("icd,id->ic", np.stack(own), features)))
    return Stages(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def judge(reference: Stages, ours: Stages, gates: Gates) -> Report:
    equal = (reference.retrieved == ours.retrieved).reshape(len(ours.retrieved), -1)  # [I, L M]
    per_picture = equal.mean(1) if equal.shape[1] else np.ones(len(equal))
    image, text = cosine(reference.features, ours.features), cosine(reference.text, ours.text)
    same = same_top1(reference.cosines, ours.cosines)
    stages = [
        Stage("image features", float(image.min()), float(image.mean()), gates.cosine, "worst"),
        Stage("retrieved entries", float(per_picture.min()), float(per_picture.mean()), gates.retrieved, "mean"),
        Stage("text features", float(text.min()), float(text.mean()), gates.cosine, "worst"),
        Stage("top-1", float(same.min()), float(same.mean()), gates.top1, "mean"),
    ]
    return Report(stages, len(ours.features), ours.text.shape[1])


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Along the last axis, in float64; NaN where either has NaN or infinity."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a).all(-1) & np.isfinite(b).all(-1)
    with np.errstate(all="ignore"):
        value = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.where(finite, value, np.nan)


def same_top1(reference: NDArray[Any], ours: NDArray[Any]) -> NDArray[np.float64]:
    """1 where the bundle's best class is the reference's, or tied with it there; [I]"""
    chosen = np.take_along_axis(reference, ours.argmax(1)[:, None], 1)[:, 0]
    same: NDArray[np.float64] = (reference.max(1) - chosen <= TIE) * np.isfinite(ours).all(1).astype(np.float64)
    return same
