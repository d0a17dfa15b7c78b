"""Token ids of prompts for a text tower that is not causal: whole sequences, because padding is attended to as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import Pooled
from attri.runtime.errors import LabelsError
from attri.runtime.labels import prompt
from attri.runtime.text.label_tokens import warn_of_cut


class SequenceEncoder(Protocol):
    """A tokenizer, as `attri.runtime.tokenizer.Tokenizer` is."""

    pad: int  # id of the padding
    pads_left: bool

    def sequence(self, text: str, context_length: int) -> tuple[list[int], int]:
        """Ids of a text with its marks, cut to the context length, and how many there were before."""
        ...


@dataclass(frozen=True, eq=False)
class PaddedTokens:
    """Token ids of C prompts, each of T tokens: the context length.

    Attributes:
        ids: int32 [C, T].
        pooled: int32 [C], the place of the token whose state becomes the text feature.
    """

    ids: NDArray[np.int32]
    pooled: NDArray[np.int32]

    def __len__(self) -> int:
        """The number of prompts, C."""
        return len(self.ids)

    @property
    def pooled_rows(self) -> NDArray[np.int32]:
        """The same places as rows of all tokens [C T], int32 [C]."""
        count, length = self.ids.shape
        rows: NDArray[np.int32] = np.arange(count, dtype=np.int32) * np.int32(length) + self.pooled
        return rows

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Number of tokens that are computed for each prompt [C]."""
        return np.full(len(self.ids), self.ids.shape[1], np.int32)

    @property
    def longest(self) -> int:
        """T."""
        return int(self.ids.shape[1])

    @property
    def extents(self) -> dict[str, int]:
        """Extents of the text graph's inputs that engines bound, by the names of the dimensions."""
        return {"C": len(self)}

    @property
    def cells(self) -> int:
        """What bounds the memory of a run with one image."""
        return self.ids.size

    def whole(self) -> list[list[int]]:
        """All ids of every prompt."""
        ids: list[list[int]] = self.ids.tolist()
        return ids

    def take(self, chosen: NDArray[np.intp] | slice) -> PaddedTokens:
        """Some of the prompts, in the order of `chosen`."""
        return PaddedTokens(self.ids[chosen], self.pooled[chosen])

    def feed(self, table: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """The label graph's input.

        Args:
            table: the token embedding [V, W].

        Returns:
            `tokens`, float32 embeddings [C, T, W].
        """
        return {"tokens": np.asarray(table[self.ids], np.float32)}


def encode_padded(
    tokenizer: SequenceEncoder,
    labels: Sequence[str],
    template: str = "{}",
    context_length: int = 77,
    locations: Sequence[str] | None = None,
    pooled: Pooled = "eot",
) -> PaddedTokens:
    """Tokenize `template` with each label in the place of {}.

    A prompt that is too long is cut, keeps its last mark, and is named in a warning.

    Args:
        tokenizer: turns text into token ids.
        labels: one text per prompt.
        template: the sentence around each label, with one {}.
        context_length: T, tokens of a prompt with marks and padding.
        locations: where each label comes from ("labels.txt line 7"), for warnings; None counts them from 1.
        pooled: whether the text feature is read at the last mark (EOT) or at the last token, padding or not.

    Raises:
        LabelsError: there are no labels.
        UsageError: the template has not exactly one {}.
    """
    if not labels:
        raise LabelsError("no labels: give at least one")
    ids = np.full((len(labels), context_length), tokenizer.pad, np.int32)
    last = np.full(len(labels), context_length - 1, np.int32)
    for number, label in enumerate(labels):
        sequence, count = tokenizer.sequence(prompt(template, label), context_length)
        if count > len(sequence):
            warn_of_cut(label, locations[number] if locations else f"label {number + 1}", count, context_length)
        start = context_length - len(sequence) if tokenizer.pads_left else 0
        ids[number, start : start + len(sequence)] = sequence
        if pooled == "eot":
            last[number] = start + len(sequence) - 1
    return PaddedTokens(ids, last)
