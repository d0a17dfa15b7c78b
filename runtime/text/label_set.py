"""Labels, tokenized: the distinct prompts among them, and which prompts belong to which label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import Features, Ids
from attri.runtime.text.label_tokens import warn_of_alike
from attri.runtime.text.reader import TextReader, Tokens


@dataclass(frozen=True)
class LabelSet:
    """Tokenized labels, replaced as a whole, so that other threads see the old set or the new one.

    Attributes:
        prompt: The learned prompt that they are encoded with.
        labels: C labels as they were given.
        tokens: Token ids of the U distinct prompts among them.
        prompt_hashes: uint64 [U], ascending, 64-bit hashes of the prompts' token ids.
        prompt_index: intp [P], the distinct prompt of each prompt; a label has one prompt or several.
        label_offsets: intp [C], where the prompts of each label begin.
        zero_shot_features: Plain CLIP's features [U, D], where there are more labels than a shortlist takes.
        own: Whether they are the prompt's own labels, which its rejection threshold was chosen for.
        thresholds: float32 [C], the score from which on each of them holds where labels are independent.
    """

    prompt: Prompt
    labels: tuple[str, ...]
    tokens: Tokens
    prompt_hashes: Ids
    prompt_index: NDArray[np.intp]
    label_offsets: NDArray[np.intp]
    zero_shot_features: Features | None = None
    own: bool = False
    thresholds: NDArray[np.float32] | None = None

    def best_of_each(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the greatest of each label's prompts: cosines [P] -> [C]."""
        best: NDArray[np.float32] = np.maximum.reduceat(cosines, self.label_offsets)
        return best

    def nearest(self, cosines: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        """Return the distinct prompts of the `count` labels whose best prompt is nearest, ascending.

        Args:
            cosines: Of an image with the distinct prompts [U].
            count: Number of labels, below C.
        """
        best = self.best_of_each(cosines[self.prompt_index])  # [C]
        taken = np.zeros(len(best), bool)
        taken[np.argpartition(-best, count - 1)[:count]] = True
        sizes = np.diff(self.label_offsets, append=len(self.prompt_index))  # [C]
        chosen: NDArray[np.intp] = np.unique(self.prompt_index[np.repeat(taken, sizes)])
        return chosen


def tokenize_labels(
    reader: TextReader,
    prompt: Prompt,
    labels: Sequence[str],
    locations: Sequence[str] | None = None,
    prompts: Sequence[Sequence[str]] | None = None,
    template: str | None = None,
) -> LabelSet:
    """Tokenize labels, without zero-shot features.

    Args:
        reader: Turns text into token ids.
        prompt: The learned prompt that they are encoded with.
        labels: What to tell apart.
        locations: Where each label came from, for warnings.
        prompts: One or more prompts for each label; None is the label itself.
        template: The sentence around each prompt, with {} in its place; None is that of the learned prompt.

    Raises:
        LabelsError: There are no labels.
    """
    groups = [(label,) for label in labels] if prompts is None else prompts
    sizes = [len(group) for group in groups]
    if len(sizes) != len(labels) or 0 in sizes:
        raise ValueError("every label needs its own prompts, one or more")
    words = [each for group in groups for each in group]
    named = locations and [each for each, size in zip(locations, sizes, strict=True) for _ in range(size)]
    template = prompt.facts.template if template is None else template
    tokens = reader.encode(words, template, named)
    digests = [hashlib.blake2b(np.array(ids, np.int32).tobytes(), digest_size=8) for ids in tokens.whole()]
    every = np.frombuffer(b"".join(digest.digest() for digest in digests), np.uint64)
    # 64 bits: two of 10,000 prompts share an id once in 10^11 sets.
    hashes, first, index = np.unique(every, return_index=True, return_inverse=True)
    offsets = np.cumsum([0, *sizes[:-1]])
    warn_of_alike(labels, offsets, index, locations)
    return LabelSet(prompt, tuple(labels), tokens.take(first), hashes, index, offsets)
