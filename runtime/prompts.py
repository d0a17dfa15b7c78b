"""From labels to the arrays that the text encoder reads: a stem that all prompts share, and each label's own tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import LabelsError
from attri.runtime.labels import prompt
from attri.runtime.tokenizer import EOT, SOS

logger = logging.getLogger("attri")


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class LabelTokens:
    """Token ids of C prompts, cut where they part.

    stem     int32 [P]     SOS and the words that every prompt starts with
    tokens   int32 [C, T]  each prompt's own tokens, its EOT last, padded with 0
    lengths  int32 [C]     own tokens up to and with EOT, at least 1
    """

    stem: NDArray[np.int32]
    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]


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
    return LabelTokens(np.array(stem, np.int32), tokens, lengths)


def _common_start(rows: list[list[int]]) -> list[int]:
    # What the least and the greatest row share, all rows between them share.
    least, greatest = min(rows), max(rows)
    count = next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    return least[:count]
