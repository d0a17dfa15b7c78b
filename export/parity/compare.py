"""Does the bundle say what the PyTorch model says? Compared stage by stage, on real pictures, with the runtime itself.

The reference reads the same files through the same preprocessing. Text features are compared at the reference's
retrieved entries, so that one flipped near-tie does not hide, or fake, an error elsewhere; flips are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attri.runtime._util.wording import plural
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.classifier import Classifier
from attri.runtime.engines.base import Engine
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import ParityError
from attri.runtime.text.cache import TextCache
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.model import AttriPrompt

BATCH = 16
TIE = 1e-5  # two best cosines closer than this are a tie: either class may come first


@dataclass(frozen=True)
class Gates:
    """Least values that a bundle must reach (our choice; docs/explanation/gates.md)."""

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


@dataclass(frozen=True, eq=False)
class Stage:
    """One comparison over pictures. `values` are the worst of each picture, [I].

    kind    "cosine" or "share", of which a gate is the least, or "difference", of which it is the greatest
    figure  "worst" or "mean": which of the two the gate is for
    gate    None where other stages decide
    usual   the gate where nobody sets one by hand
    """

    name: str
    kind: str
    worst: float
    mean: float
    gate: float | None
    figure: str
    values: NDArray[np.float64] = field(repr=False)
    usual: float | None = None

    @classmethod
    def of(cls, name: str, kind: str, found: NDArray[Any], gate: float | None, figure: str) -> Stage:
        """found: one or more figures of each picture, [I, ...]"""
        each = found.reshape(len(found), -1).astype(np.float64)
        values: NDArray[np.float64] = getattr(each, {"cosine": "min", "share": "mean", "difference": "max"}[kind])(1)
        worst = values.max() if kind == "difference" else values.min()
        return cls(name, kind, float(worst), float(each.mean()), gate, figure, values)

    @property
    def held(self) -> bool:
        if self.gate is None:
            return True
        value = getattr(self, self.figure)
        return bool(value <= self.gate if self.kind == "difference" else value >= self.gate)  # NaN compares false

    @property
    def by_hand(self) -> bool:
        return self.usual is not None and self.gate != self.usual

    @property
    def distances(self) -> NDArray[np.float64]:
        """How far each picture is from the reference, 0 where it is the same, [I]"""
        return self.values if self.kind == "difference" else np.maximum(1 - self.values, 0)

    @property
    def worst_picture(self) -> int:
        return int(np.nan_to_num(self.distances, nan=np.inf).argmax())

    def summary(self) -> dict[str, Any]:
        names = ("name", "kind", "worst", "mean", "gate", "usual", "figure", "held")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, eq=False)
class Report:
    """asked: how many pictures were named, where some of them could not be read."""

    stages: list[Stage]
    pictures: int
    labels: int
    asked: int | None = None

    @property
    def missed(self) -> Stage | None:
        """The first stage whose gate did not hold."""
        return next((stage for stage in self.stages if not stage.held), None)

    def beside(self, usual: Gates) -> Report:
        """The same with the usual gates beside those that were used: one set by hand must not look like a usual one."""
        of = {"retrieved entries": usual.retrieved, "top-1": usual.top1}
        of |= dict.fromkeys(("image features", "text features"), usual.cosine)
        stages = [replace(each, usual=of.get(each.name.partition(",")[0], each.gate)) for each in self.stages]
        return replace(self, stages=stages)

    def check(self, culprit: Callable[[Stage], str] = lambda stage: "") -> None:
        """Raises ParityError that names the first stage whose gate did not hold, and what `culprit` says of it."""
        stage = self.missed
        if stage is not None:
            raise ParityError(
                f"the bundle does not agree with the PyTorch model: {stage.name} is {getattr(stage, stage.figure):.9f},"
                f" the gate is {stage.gate}{culprit(stage)}; nothing was written"
            )

    def to_dict(self) -> dict[str, Any]:
        stages = [stage.summary() for stage in self.stages]
        return {"pictures": self.pictures, "asked": self.asked, "labels": self.labels, "stages": stages}

    @property
    def compared(self) -> str:
        """What it was compared on, for a person."""
        missing = self.asked is not None and self.asked > self.pictures
        of = f" (only {self.pictures} of {self.asked} could be read)" if missing else ""
        return f"{plural(self.pictures, 'picture')}{of}, {plural(self.labels, 'label')}"

    def table(self) -> str:
        hand = ", gates set by hand" if any(stage.by_hand for stage in self.stages) else ""
        rows = [f"{'parity':<24}{'worst':>12}{'mean':>12}{'gate':>12}  {self.compared}{hand}"]
        for stage in self.stages:
            gate = "none" if stage.gate is None else f"{stage.figure} {stage.gate:g}"
            held = "" if stage.gate is None else "held" if stage.held else "MISSED"
            held += f", usually {stage.usual:g}" if stage.by_hand else ""
            rows.append(f"{stage.name:<24}{stage.worst:>12.7f}{stage.mean:>12.7f}{gate:>18}  {held}".rstrip())
        return "\n".join(rows)


@dataclass(frozen=True, eq=False)
class Stages:
    """What one side computed. scale: of logits; features [I, D], retrieved [I, L, M], text [I, C, D], cosines [I, C]"""

    scale: float
    features: NDArray[np.float32]
    retrieved: NDArray[np.int32]
    text: NDArray[np.float32]
    cosines: NDArray[np.float32]


def compare(model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32], gates: Gates) -> Report:
    """Run the model and a bundle, which may be unfinished, over pictures [I, 3, S, S]."""
    classifier = classifier_of(bundle)
    reference = run_model(model, pixels, list(classifier.labels), classifier.template)
    ours = run_bundle(classifier, pixels, reference.retrieved)
    return judge(reference, ours, gates)


def classifier_of(
    bundle: Bundle,
    files: tuple[str, str] = (VISION, TEXT),
    wrap: Callable[[Engine], Engine] = lambda engine: engine,
    integers: bool = True,
) -> Classifier:
    """The runtime's classifier on the CPU, without a cache, of a bundle that has no manifest on disk yet.

    Args:
        files: the vision and the text graph in the bundle.
        wrap: what to put around each engine.
        integers: as of `OrtEngine`.
    """
    vision, text = (wrap(OrtEngine(bundle.file(name), "cpu", integers=integers)) for name in files)
    return Classifier(bundle, vision, text, bundle.manifest.labels, TextCache(0))


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
    return Stages(model.backbone.logit_scale, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def run_bundle(classifier: Classifier, pixels: NDArray[np.float32], reference: NDArray[np.int32]) -> Stages:
    """Text features at the reference's entries, cosines at the bundle's own."""
    parts = []
    for start in range(0, len(pixels), BATCH):
        rows = slice(start, start + BATCH)
        features, retrieved = classifier.encode_image(pixels[rows])
        text = classifier.encode_text(reference[rows])
        own = text if np.array_equal(retrieved, reference[rows]) else classifier.encode_text(retrieved)
        parts.append((features, retrieved, np.stack(text), np.einsum("icd,id->ic", np.stack(own), features)))
    return Stages(classifier.bundle.manifest.logit_scale, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def judge(reference: Stages, ours: Stages, gates: Gates) -> Report:
    """Logits have no gate of their own: those of the features bound them, and top-1 is what they are for."""
    equal = (reference.retrieved == ours.retrieved).reshape(len(ours.retrieved), -1)  # [I, L M]
    logits = np.abs(reference.scale * reference.cosines - ours.scale * ours.cosines)  # [I, C]
    text = cosine(reference.text, ours.text)  # [I, C]
    stages = [
        Stage.of("image features", "cosine", cosine(reference.features, ours.features), gates.cosine, "worst"),
        Stage.of("retrieved entries", "share", equal, gates.retrieved, "mean"),
        Stage.of("text features", "cosine", text, gates.cosine, "worst"),
        Stage.of("logits", "difference", logits, None, "worst"),
        Stage.of("top-1", "share", same_top1(reference.cosines, ours.cosines), gates.top1, "mean"),
    ]
    return Report(stages, *text.shape)


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
