"""What why.py changes of AttriPrompt, one thing each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer

from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.features import Features

SHRINKAGE = 0.1  # of the mean variance, added to each: few images leave most directions nearly without any
LETTERS = range(4, 13)  # of a word
END = "</w>"  # CLIP's vocabulary marks whole words by it


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        prompt: fields of PromptConfig.
        train: fields of TrainConfig.
        whitened: centres are whitened before they retrieve.
        words: as many vocabulary words as there are classes are classes too, without images.
    """

    prompt: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    whitened: bool = False
    words: bool = False

    def reads(self, train: Features) -> Callable[[Features], Features]:
        """What the variant makes of features; `train` are those of the training images."""
        if self.whitened:
            return whitening(train)
        depth = self.prompt.get("depth")  # of the first blocks, whose centres are kept among those of all
        return lambda data: replace(data, centres=data.centres[:, :, :depth])


DEFAULT = "AttriPrompt"
STATIC = {"pool_size": 0, "static_tokens": 4}
CROSS_ENTROPY = {f"weight_{term}": 0.0 for term in ("instance", "text", "logits")}
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    "no pool: static": Variant(STATIC),
    "residual: 2 static, 2 retrieved tokens": Variant({"static_tokens": 2, "prompt_length": 1}),
    "4 entries, not 16": Variant({"pool_size": 4}),
    "first 3 blocks, not all": Variant({"depth": 3, "sources": (1, 2, 3)}),
    "whitened queries": Variant(whitened=True),
    "words as further classes": Variant(words=True),
    "cross-entropy alone": Variant(train=CROSS_ENTROPY),
    "no pool, cross-entropy alone": Variant(STATIC, CROSS_ENTROPY),
    "text at 5, not 25": Variant(train={"weight_text": 5.0}),
    "no logits term": Variant(train={"weight_logits": 0.0}),
    "text at 5, no logits term": Variant(train={"weight_text": 5.0, "weight_logits": 0.0}),
    "text at 100, not 25": Variant(train={"weight_text": 100.0}),
    "logits at 4, not 1": Variant(train={"weight_logits": 4.0}),
    "no instance stream": Variant(train={"weight_instance": 0.0}),
    "averaged over epochs": Variant(train={"average": True}),
}


def whitening(train: Features) -> Callable[[Features], Features]:
    """Whiten the centres of each block: less their mean, as much variance in every direction, unit again.

    Args:
        train: images whose centres [I, V, L, K, D] give means and variances.
    """
    centres = train.centres.flatten(0, 1).transpose(0, 1).flatten(1, 2)  # [L, n, D]
    mean = centres.mean(1, keepdim=True)
    spread = (centres - mean).transpose(1, 2) @ (centres - mean) / centres.shape[1]
    variances, directions = torch.linalg.eigh(spread)
    scales = (variances + SHRINKAGE * variances.mean(-1, keepdim=True)).rsqrt()
    matrix = (directions * scales[:, None]) @ directions.transpose(1, 2)  # [L, D, D]

    def apply(data: Features) -> Features:
        whitened = torch.einsum("ivlkd,lde->ivlke", data.centres - mean, matrix)
        return replace(data, centres=torch.nn.functional.normalize(whitened, dim=-1))

    return apply


def vocabulary(model: AttriPrompt, names: Iterable[str], count: int, seed: int) -> list[str]:
    """Draw whole words that the backbone has an embedding of, none of which is part of a name."""
    taken = {word for name in names for word in name.lower().split()}
    table = model.backbone.token_embedding  # [V, W]
    known = [
        token.removesuffix(END)
        for token, number in SimpleTokenizer().encoder.items()
        if token.endswith(END) and table[number].any()
    ]
    words = [word for word in known if len(word) in LETTERS and word.isalpha() and word not in taken]
    return random.Random(seed).sample(words, count)
