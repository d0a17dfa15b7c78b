r"""What retrieval tells: which pool entries images choose, and how much that says about their class.

    agreement    how often two images of one class choose the same entry, beside any two images
    information  I(entry; class) = sum p(e, c) log2 p(e, c) / (p(e) p(c)), less its mean over shuffled classes, which is
                 what so few images show by chance
    distance     1/2 sum_e |p(e | base) - p(e | novel)|: 0 is the same use of the pool, 1 is no entry in common

Keys are as training starts, fitted to the centres of the training images; its retrieval loss moves them little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.pool import fit_keys
from attri.train.training.features import Features

SHUFFLES = 20
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Retrieved:
    """What one text block retrieves, all centres together.

    Attributes:
        entries: distinct entries in use.
        entropy: of the use of the entries, in bits.
        same: agreement of two images of one class.
        any_two: agreement of any two images.
        information: with the class, in bits, less the chance level.
        classes: entropy of the class, in bits: the most that there is.
        distance: between base and novel classes' use.
    """

    entries: int
    entropy: float
    same: float
    any_two: float
    information: float
    classes: float
    distance: float


def chosen(model: AttriPrompt, train: Features, data: Features, seed: int = 1) -> Ints:
    """The entry that each centre of each image chooses, keys fitted to `train`. -> [I, L, K]."""
    fit_keys(model.pool, train.centres.flatten(0, 1), torch.Generator().manual_seed(seed))
    entries: Ints = model.pool.scores(data.centres[:, 0]).argmax(-1).numpy()
    return entries


def entropy(counts: NDArray[np.float64]) -> float:
    """In bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def joint(entries: Ints, targets: Ints) -> NDArray[np.float64]:
    """Counts of entry and class. both [I] -> [N, C]."""
    counts = np.zeros((entries.max() + 1, targets.max() + 1))
    np.add.at(counts, (entries, targets), 1)
    return counts


def information(entries: Ints, targets: Ints) -> float:
    """Mutual information in bits, as it comes out of the counts."""
    counts = joint(entries, targets)
    return entropy(counts.sum(0)) + entropy(counts.sum(1)) - entropy(counts.ravel())


def beyond_chance(entries: Ints, targets: Ints) -> float:
    """Mutual information less its mean over shuffled classes."""
    generator = np.random.default_rng(0)
    shuffled = [information(entries, generator.permutation(targets)) for _ in range(SHUFFLES)]
    return information(entries, targets) - float(np.mean(shuffled))


def agreement(entries: Ints, targets: Ints) -> tuple[float, float]:
    """How often two different images choose the same entry: two of one class, and any two."""
    counts = joint(entries, targets)

    def pairs(numbers: NDArray[np.float64]) -> float:
        return float((numbers * (numbers - 1)).sum())

    return pairs(counts) / pairs(counts.sum(0)), pairs(counts.sum(1)) / pairs(counts.sum(keepdims=True))


def distance(ours: Ints, theirs: Ints) -> float:
    """Total variation between two samples' use of the entries."""
    size = max(ours.max(), theirs.max()) + 1
    shares = [np.bincount(entries, minlength=size) / len(entries) for entries in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def describe(entries: Ints, targets: Ints, base: int) -> list[Retrieved]:
    """One line per text block; classes from `base` on are novel. entries [I, L, K], targets [I]."""
    found = []
    for block in entries.transpose(1, 2, 0):  # [L, K, I]
        same, any_two = np.mean([agreement(centre, targets) for centre in block], 0)
        is_base = targets < base
        found.append(
            Retrieved(
                entries=len(np.unique(block)),
                entropy=entropy(np.bincount(block.ravel()).astype(float)),
                same=float(same),
                any_two=float(any_two),
                information=float(np.mean([beyond_chance(centre, targets) for centre in block])),
                classes=entropy(np.bincount(targets).astype(float)),
                distance=distance(block[:, is_base].ravel(), block[:, ~is_base].ravel()),
            )
        )
    return found
