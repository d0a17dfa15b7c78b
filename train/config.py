"""The configs of a training run; each field's comment gives its unit and where the choice comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.runtime.labels import prompt

TEMPLATE = "a photo of a {}."
FROZEN_TEMPLATES = (TEMPLATE, "a picture of a {}.", "a {}.")
# What can be chosen: a type for each, and its values as a tuple for the options of attri-train.
Term = Literal["class", "instance", "text", "logits", "retrieval", "diversity"]  # of the loss, in losses.py's order
TERMS: tuple[Term, ...] = get_args(Term)
Protocol = Literal["base-to-novel", "cross-dataset", "domain-generalization", "few-shot"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Method = Literal["zero-shot", "static", "attriprompt"]
METHODS: tuple[Method, ...] = get_args(Method)
KmeansInit = Literal["grid", "farthest"]
KMEANS_INITS: tuple[KmeansInit, ...] = get_args(KmeansInit)
Optimizer = Literal["adamw", "sgd"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
Precision = Literal["fp32", "bf16"]  # of training; bundles have others (attri.runtime.bundle)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)


OWN_WEIGHTS = ("local-dir:", "hf-hub:")  # what names begin with whose models bring their weights


def has_own_weights(model: str) -> bool:
    """Whether a name stands for a model with its weights, so that none have to be chosen."""
    return model == "pocket" or model.startswith(OWN_WEIGHTS)


@dataclass(frozen=True)
class PromptConfig:
    """The shape of the prompt and of retrieval (docs/explanation/method.md), stored in `prompt.safetensors`."""

    clusters: int = 2  # K, k-means centres per image and block (paper: clustering; the number is our choice)
    lloyd_steps: int = 1  # fixed, so that the graph is static (our choice)
    kmeans_init: KmeansInit = "grid"  # first centres: "grid" of region means or "farthest" tokens (our choice)
    pool_size: int = 16  # N, pool entries; 0 is no pool (paper: a pool; the number is our choice)
    topk: int = 1  # k, pool entries that each centre retrieves (our choice)
    prompt_length: int = 2  # p, prompt tokens per pool entry (our choice)
    static_tokens: int = 0  # q, deep prompt tokens that every image sees (our choice)
    # Prompted text blocks, from the first on; None is all of them (paper: all). Of a text tower that is not causal they
    # are the last ones, and None is 2: the blocks before cost nothing per image (our choice).
    depth: int | None = None
    # Vision block (from 1) that each prompted text block retrieves with; None spreads them evenly (our choice). A tower
    # that shrinks its map has only the two or three blocks of its last stage: neighbouring text blocks share them.
    sources: tuple[int, ...] | None = None
    # One pool for all blocks (paper: "a prompt pool"). As accurate on the pocket set as one per block, and steadier:
    # 94, 84, 80 and 94% of the frames of four still shots hit the cache (benchmarks/cache.md), not 86, 84, 72 and 71%.
    shared: bool = True

    def __post_init__(self) -> None:
        at_least_one = ("clusters", "topk", "prompt_length")
        for name in (*at_least_one, "pool_size", "static_tokens", "lloyd_steps"):
            if getattr(self, name) < int(name in at_least_one):
                raise UsageError(f"{name} is {getattr(self, name)}: it must be {int(name in at_least_one)} or more")
        if self.sources is not None:
            object.__setattr__(self, "sources", tuple(self.sources))  # JSON has lists
        if self.sources is not None and min(self.sources, default=0) < 1:
            raise UsageError(f"sources is {self.sources}: vision blocks are counted from 1")
        _require("kmeans_init", self.kmeans_init, KMEANS_INITS)
        if self.pool_size == 0 and self.static_tokens == 0:
            raise UsageError("pool_size and static_tokens are both 0: nothing would be learned")
        if self.pool_size and self.topk > self.pool_size:
            raise UsageError(f"topk is {self.topk}, but the pool has only {plural(self.pool_size, 'entry')}")

    def static(self) -> PromptConfig:
        """As many prompt tokens per block, all of them static: the baseline of the same length."""
        tokens = self.retrieved * self.prompt_length + self.static_tokens
        return replace(self, pool_size=0, static_tokens=tokens)

    @property
    def retrieved(self) -> int:
        """M, pool entries that one image retrieves for one text block."""
        return self.clusters * self.topk if self.pool_size else 0


@dataclass(frozen=True)
class TrainConfig:
    """How the prompt is learned."""

    template: str = TEMPLATE  # the label goes into {} (CoOp and its followers)
    frozen_templates: tuple[str, ...] = FROZEN_TEMPLATES  # averaged for T0 (our choice)
    epochs: int = 40  # passes over the training images (our choice)
    batch_size: int = 32  # images per step (our choice)
    optimizer: Optimizer = "adamw"  # SGD has a momentum of 0.9 (our choice)
    lr: float = 2e-3  # peak learning rate, reached after warmup, then cosine to 0 (our choice)
    warmup: float = 0.05  # share of all steps (our choice)
    weight_decay: float = 1e-2  # on prompt tokens, not on keys (our choice)
    augmentations: int = 8  # cached augmented views per training image (our choice)
    shots: int | None = None  # images per class; None is all (few-shot protocol of CoOp)
    holdout: float = 0.25  # share per class kept for testing when the data has no test folder (our choice)
    weight_class: float = 1.0  # class stream (paper)
    weight_instance: float = 0.25  # instance stream (paper: the term; our weight)
    weight_text: float = 25.0  # self-regularization, distance of text features (paper: the term; our weight)
    weight_logits: float = 1.0  # self-regularization, KL of the predictions (paper: the term; our weight)
    weight_retrieval: float = 0.5  # keys follow the centres that choose them (our choice)
    weight_diversity: float = 0.02  # keys stay apart; 0.1 pushes a third of them off the images (our choice)
    average: bool = False  # Gaussian-weighted average of the prompts over the epochs (PromptSRC)
    average_mean: float = 0.75  # where the Gaussian peaks, share of all epochs (PromptSRC)
    average_std: float = 0.05  # its width, share of all epochs (PromptSRC)
    precision: Precision = "fp32"  # of the text encoder's products; prompts stay fp32 (our choice)
    seed: int = 1

    def __post_init__(self) -> None:
        for template in (self.template, *self.frozen_templates):
            prompt(template, "label")
        _require("optimizer", self.optimizer, OPTIMIZERS)
        _require("precision", self.precision, PRECISIONS)
        for term in TERMS:
            if not 0 <= self.weight(term) < math.inf:
                raise UsageError(f"weight_{term} is {self.weight(term)}: it must be 0 (off) or more")
        if all(self.weight(term) == 0 for term in TERMS):
            raise UsageError("every loss has weight 0: nothing would be learned")
        for name in ("lr", "average_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}: it must be more than 0, and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay is {self.weight_decay}: it must be 0 (off) or more")
        for name in ("warmup", "average_mean"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}: it is a share, from 0 to 1")
        for name in ("epochs", "batch_size", "augmentations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.shots is not None and self.shots < 1:
            raise UsageError(f"shots is {self.shots}: it must be 1 or more")

    def weight(self, term: Term) -> float:
        """Return the weight of one of the TERMS; 0 leaves it out."""
        return float(getattr(self, f"weight_{term}"))


# Fields of training that starts at a prompt: what is known is held on to harder than plain CLIP else, and keys and the
# tokens of entries that no image retrieves stay as they are (our choice).
INCREMENTAL: dict[str, Any] = {
    "epochs": 20,
    "weight_decay": 0.0,
    "weight_text": 50.0,
    "weight_logits": 4.0,
    "weight_retrieval": 0.0,
    "weight_diversity": 0.0,
}


def _require(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises UsageError where a value is not one of the choices."""
    if value not in choices:
        raise UsageError(f"{name} is {value!r}: choose {' or '.join(map(repr, choices))}")


def trainable_parts(prompt: PromptConfig, train: TrainConfig) -> tuple[bool, bool]:
    """Return whether a loss term reaches the keys, and whether one reaches the prompt tokens.

    Raises:
        UsageError: neither; nothing would be learned.
    """
    pulled, pushed = prompt.pool_size > 0 and train.weight_retrieval, prompt.pool_size > 1 and train.weight_diversity
    keys = bool(pulled or pushed)
    tokens = any(train.weight(term) for term in ("class", "instance", "text", "logits"))
    if not keys and not tokens:
        raise UsageError("no loss of a weight above 0 reaches this prompt: nothing would be learned")
    return keys, tokens
