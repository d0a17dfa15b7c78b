"""Token ids of a set of prompts, packed for the text graph: a shared prefix and a trie of each label's suffix."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import LabelsError
from attri.runtime.labels import prompt
from attri.runtime.tokenizer import EOT, SOS

_LOGGER = logging.getLogger("attri")
_SHOWN_ALIKE = 5


class Encoder(Protocol):
    """A tokenizer, as `attri.runtime.tokenizer.Tokenizer` is."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without SOS and EOT."""
        ...


@dataclass(frozen=True)
class LabelTokens:
    """Token ids of C prompts as a trie: each distinct beginning is one of R rows, and only rows are computed.

    Under a causal mask a token's state depends on the tokens before it alone. Prompts that begin alike therefore share
    rows, and no row is padding.

    Attributes:
        prefix: int32 [P], SOS and the words that every prompt starts with.
        suffix_tokens: int32 [R], the tokens after the prefix, parents before children; the last of a prompt is EOT.
        suffix_positions: int32 [R], number of tokens between the prefix and the row.
        token_rows: int32 [C, T], the row of each prompt's t-th token; the last one is repeated up to the length of the
            longest prompt.
        scatter_index: int32 [R], index into `token_rows.ravel()` of one occurrence of each row.
        eot_rows: int32 [C], the row of each prompt's EOT.
    """

    prefix: NDArray[np.int32]
    suffix_tokens: NDArray[np.int32]
    suffix_positions: NDArray[np.int32]
    token_rows: NDArray[np.int32]
    scatter_index: NDArray[np.int32]
    eot_rows: NDArray[np.int32]

    @classmethod
    def pack(cls, prefix: NDArray[np.int32], tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> LabelTokens:
        """Build the trie.

        Args:
            prefix: ids that all prompts start with [P].
            tokens: ids after the prefix, padded [C, T].
            lengths: how many of them each prompt has, 1 or more [C].
        """
        T = int(lengths.max())
        token_rows = np.zeros((len(tokens), T), np.int32)
        ids, positions, occurrences = [], [], []
        parents, row_count = np.zeros(len(tokens), np.int64), 0
        for position in range(T):
            ongoing = np.flatnonzero(lengths > position)
            beginnings = parents[ongoing] << 32 | tokens[ongoing, position]
            _, first, row = np.unique(beginnings, return_index=True, return_inverse=True)
            parents[ongoing] = row_count + row
            token_rows[:, position] = parents  # prompts that have ended repeat their last row
            ids.append(tokens[ongoing[first], position])
            positions.append(np.full(len(first), position))
            occurrences.append(ongoing[first] * T + position)
            row_count += len(first)
        rows = (np.concatenate(part).astype(np.int32) for part in (ids, positions, occurrences))
        suffix_tokens, suffix_positions, scatter_index = rows  # [R] each
        return cls(prefix, suffix_tokens, suffix_positions, token_rows, scatter_index, token_rows[:, -1])

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Number of tokens of each prompt after the prefix, EOT included [C]."""
        return self.suffix_positions[self.eot_rows] + 1

    @property
    def longest(self) -> int:
        """T, tokens of the longest prompt after the prefix."""
        return int(self.token_rows.shape[1])

    @property
    def extents(self) -> dict[str, int]:
        """Extents of the text graph's inputs that engines bound, by the names of the dimensions."""
        return {"C": len(self), "R": len(self.suffix_tokens)}

    @property
    def cells(self) -> int:
        """What bounds the memory of a run with one image."""
        return max(len(self.suffix_tokens), self.token_rows.size)

    def whole(self) -> list[list[int]]:
        """All ids of every prompt, from SOS to EOT."""
        rows = zip(self.suffix_tokens[self.token_rows], self.lengths, strict=True)
        return [[*self.prefix.tolist(), *ids[:length].tolist()] for ids, length in rows]

    def feed(self, table: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The text graph's inputs, but for `retrieved`.

        Args:
            table: the token embedding [49408, W].

        Returns:
            The fields by name, with float32 embeddings in the place of ids: prefix [P, W], suffix_tokens [R, W].
        """
        return {
            "prefix": np.asarray(table[self.prefix], np.float32),
            "suffix_tokens": np.asarray(table[self.suffix_tokens], np.float32),
            "suffix_positions": self.suffix_positions,
            "token_rows": self.token_rows,
            "scatter_index": self.scatter_index,
            "eot_rows": self.eot_rows,
        }

    def __len__(self) -> int:
        """The number of prompts, C."""
        return len(self.eot_rows)

    def take(self, chosen: NDArray[np.intp] | slice) -> LabelTokens:
        """The trie of some of the prompts, in the order of `chosen`; the prefix stays."""
        return self.pack(self.prefix, self.suffix_tokens[self.token_rows[chosen]], self.lengths[chosen])


def encode_labels(
    tokenizer: Encoder,
    labels: Sequence[str],
    template: str = "{}",
    context_length: int = 77,
    locations: Sequence[str] | None = None,
) -> LabelTokens:
    """Tokenize `template` with each label in the place of {}.

    A prompt that is too long keeps its first context_length - 2 tokens and its EOT, and is named in a warning.

    Args:
        tokenizer: turns text into token ids.
        labels: one text per prompt.
        template: the sentence around each label, with one {}.
        context_length: most tokens of a prompt, with SOS and EOT.
        locations: where each label comes from ("labels.txt line 7"), for warnings; None counts them from 1.

    Raises:
        LabelsError: there are no labels.
        UsageError: the template has not exactly one {}.
    """
    if not labels:
        raise LabelsError("no labels: give at least one")
    sequences = []
    for number, label in enumerate(labels):
        ids = tokenizer.encode(prompt(template, label))
        if len(ids) > context_length - 2:
            warn_of_cut(label, locations[number] if locations else f"label {number + 1}", len(ids) + 2, context_length)
        sequences.append([SOS, *ids[: context_length - 2], EOT])
    # EOT stays in the suffix, so that a single label, or two equal ones, still have a suffix.
    prefix = _common_start([ids[:-1] for ids in sequences])
    suffixes = [ids[len(prefix) :] for ids in sequences]
    lengths = np.array([len(ids) for ids in suffixes], np.int32)
    tokens = np.zeros((len(suffixes), int(lengths.max())), np.int32)  # [C, T]
    for target, ids in zip(tokens, suffixes, strict=True):
        target[: len(ids)] = ids
    return LabelTokens.pack(np.array(prefix, np.int32), tokens, lengths)


def warn_of_cut(label: str, location: str, tokens: int, context_length: int) -> None:
    """Log that a label has more tokens, marks included, than are kept."""
    _LOGGER.warning(
        "%s has %d tokens, %d are kept: %.40s...", location, tokens, context_length, " ".join(label.split())
    )


def _common_start(sequences: list[list[int]]) -> list[int]:
    # What the least and the greatest sequence share, all between them share.
    least, greatest = min(sequences), max(sequences)
    count = next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    return least[:count]


def warn_of_alike(
    labels: Sequence[str],
    label_offsets: NDArray[np.intp],
    prompt_index: NDArray[np.intp],
    locations: Sequence[str] | None = None,
) -> None:
    """Log one warning that names different labels whose prompts have the same tokens, such as "Bird" and "bird".

    Args:
        labels: C labels.
        label_offsets: index of the first prompt of each label [C].
        prompt_index: index of each prompt among the distinct prompts [P].
        locations: of the labels, as for `encode_labels`.
    """
    owners = np.repeat(np.arange(len(labels)), np.diff(label_offsets, append=len(prompt_index)))  # [P]
    shared = np.flatnonzero(np.bincount(prompt_index)[prompt_index] > 1)  # [S]
    groups: dict[int, dict[str, int]] = {}
    for owner, tokens in zip(owners[shared].tolist(), prompt_index[shared].tolist(), strict=True):
        groups.setdefault(tokens, {}).setdefault(labels[owner], owner)
    alike = list(dict.fromkeys(tuple(group.values()) for group in groups.values() if len(group) > 1))
    if not alike:
        return
    named = [f"{label!r:.60}" + (f" ({locations[i]})" if locations else "") for i, label in enumerate(labels)]
    shown = "; ".join(" = ".join(named[owner] for owner in group) for group in alike[:_SHOWN_ALIKE])
    more = f"; and {len(alike) - _SHOWN_ALIKE} more" if len(alike) > _SHOWN_ALIKE else ""
    _LOGGER.warning("the model reads these labels alike, whatever their case, so keep one of each: %s%s", shown, more)
