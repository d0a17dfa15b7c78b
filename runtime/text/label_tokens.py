"""From labels to the arrays that the text encoder reads: a stem that all prompts share, and each label's own tokens."""

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

logger = logging.getLogger("attri")
_SHOWN_ALIKE = 5


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class LabelTokens:
    """Token ids of C prompts, each distinct beginning once: a trie, whose R rows are all that has to be computed.

    Under a causal mask a token's state depends on the tokens before it alone. Prompts that begin alike share those
    rows, and no row is padding.

    stem    int32 [P]     SOS and the words that every prompt starts with
    own     int32 [R]     the other tokens, parents before children; a prompt's last is its EOT
    places  int32 [R]     how many tokens stand between the stem and the row
    slots   int32 [C, T]  the rows of each prompt in their order, its last one repeated to the longest prompt's length
    cells   int32 [R]     a place in the flattened `slots` that holds the row
    last    int32 [C]     the row of each prompt's EOT
    """

    stem: NDArray[np.int32]
    own: NDArray[np.int32]
    places: NDArray[np.int32]
    slots: NDArray[np.int32]
    cells: NDArray[np.int32]
    last: NDArray[np.int32]

    @classmethod
    def pack(cls, stem: NDArray[np.int32], tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> LabelTokens:
        """From padded tokens [C, T] after the stem, of which each prompt has so many, 1 or more [C]."""
        T = int(lengths.max())
        slots = np.zeros((len(tokens), T), np.int32)
        own, places, cells = [], [], []
        parents, rows = np.zeros(len(tokens), np.int64), 0
        for place in range(T):
            going = np.flatnonzero(lengths > place)
            beginnings = parents[going] << 32 | tokens[going, place]
            _, first, row = np.unique(beginnings, return_index=True, return_inverse=True)
            parents[going] = rows + row
            slots[:, place] = parents  # those that have ended repeat their last
            own.append(tokens[going[first], place])
            places.append(np.full(len(first), place))
            cells.append(going[first] * T + place)
            rows += len(first)
        own_ids, all_places, all_cells = (np.concatenate(part).astype(np.int32) for part in (own, places, cells))
        return cls(stem, own_ids, all_places, slots, all_cells, slots[:, -1])

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each prompt after the stem, EOT included [C]"""
        return self.places[self.last] + 1

    def whole(self) -> list[list[int]]:
        """Every prompt's ids from SOS to EOT."""
        rows = zip(self.own[self.slots], self.lengths, strict=True)
        return [[*self.stem.tolist(), *ids[:length].tolist()] for ids, length in rows]

    def feed(self, table: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """As the text graph reads them: stem [P, W] and own [R, W] are looked up in `table`, as float32."""
        embedded = {name: np.asarray(table[ids], np.float32) for name, ids in (("stem", self.stem), ("own", self.own))}
        return embedded | {"places": self.places, "slots": self.slots, "cells": self.cells, "last": self.last}

    def __len__(self) -> int:
        return len(self.last)

    def take(self, classes: NDArray[np.intp] | slice) -> LabelTokens:
        """The same for some of the prompts, in that order."""
        return self.pack(self.stem, self.own[self.slots[classes]], self.lengths[classes])


def encode_labels(
    tokenizer: Encoder,
    labels: Sequence[str],
    template: str = "{}",
    context_length: int = 77,
    places: Sequence[str] | None = None,
) -> LabelTokens:
    """Encode `template` with each label in the place of {}.

    A prompt that is too long keeps its first context_length - 2 tokens and its EOT, with a logged warning that names
    it by its entry of `places` ("labels.txt line 7") or by its number.

    Raises:
        LabelsError: there are no labels.
        UsageError: the template has not exactly one {}.
    """
    if not labels:
        raise LabelsError("no labels: give at least one")
    rows = []
    for number, label in enumerate(labels):
        ids = tokenizer.encode(prompt(template, label))
        if len(ids) > context_length - 2:
            place = places[number] if places else f"label {number + 1}"
            logger.warning(
                "%s has %d tokens, %d are kept: %.40s...", place, len(ids) + 2, context_length, " ".join(label.split())
            )
        rows.append([SOS, *ids[: context_length - 2], EOT])
    # EOT stays with the label, so that a single label, or two equal ones, still have a token of their own.
    stem = _common_start([row[:-1] for row in rows])
    own = [row[len(stem) :] for row in rows]
    lengths = np.array([len(row) for row in own], np.int32)
    tokens = np.zeros((len(own), int(lengths.max())), np.int32)
    for target, row in zip(tokens, own, strict=True):
        target[: len(row)] = row
    return LabelTokens.pack(np.array(stem, np.int32), tokens, lengths)


def _common_start(rows: list[list[int]]) -> list[int]:
    # What the least and the greatest row share, all rows between them share.
    least, greatest = min(rows), max(rows)
    count = next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    return least[:count]


def warn_of_alike(
    labels: Sequence[str], starts: NDArray[np.intp], prompt: NDArray[np.intp], places: Sequence[str] | None = None
) -> None:
    """One warning that names different labels whose prompts have the same tokens, as "Bird" and "bird" have.

    Args:
        starts: where the prompts of each label begin [C].
        prompt: the distinct prompt of each prompt [P].
        places: of the labels, as for `encode_labels`.
    """
    owners = np.repeat(np.arange(len(labels)), np.diff(starts, append=len(prompt)))  # [P]
    shared = np.flatnonzero(np.bincount(prompt)[prompt] > 1)  # [S]
    groups: dict[int, dict[str, int]] = {}
    for owner, tokens in zip(owners[shared].tolist(), prompt[shared].tolist(), strict=True):
        groups.setdefault(tokens, {}).setdefault(labels[owner], owner)
    alike = list(dict.fromkeys(tuple(group.values()) for group in groups.values() if len(group) > 1))
    if not alike:
        return
    named = [f"{labels[owner]!r:.60}" + (f" ({places[owner]})" if places else "") for owner in range(len(labels))]
    shown = "; ".join(" = ".join(named[owner] for owner in group) for group in alike[:_SHOWN_ALIKE])
    more = f"; and {len(alike) - _SHOWN_ALIKE} more" if len(alike) > _SHOWN_ALIKE else ""
    logger.warning("the model reads these labels alike, whatever their case, so keep one of each: %s%s", shown, more)
