"""What retrieval tells, against loops over pairs of images."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

ENTRIES = np.array([0, 0, 1, 2, 2, 2, 1, 0])
TARGETS = np.array([0, 0, 0, 1, 1, 1, 2, 2])


@pytest.fixture
def diagnostics(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.accuracy.diagnostics")


def test_agreement_counts_pairs(diagnostics):
    pairs = list(permutations(range(len(ENTRIES)), 2))
    of_class = [(a, b) for a, b in pairs if TARGETS[a] == TARGETS[b]]
    expected = [sum(ENTRIES[a] == ENTRIES[b] for a, b in some) / len(some) for some in (of_class, pairs)]
    assert diagnostics.agreement(ENTRIES, TARGETS) == pytest.approx(tuple(expected), abs=1e-12)


def test_information_is_its_definition(diagnostics):
    together, count = Counter(zip(ENTRIES.tolist(), TARGETS.tolist(), strict=True)), len(ENTRIES)
    entries, targets = Counter(ENTRIES.tolist()), Counter(TARGETS.tolist())
    expected = sum(n / count * math.log2(n * count / (entries[e] * targets[t])) for (e, t), n in together.items())
    assert diagnostics.information(ENTRIES, TARGETS) == pytest.approx(expected, abs=1e-12)
    assert diagnostics.information(TARGETS, TARGETS) == pytest.approx(diagnostics.entropy(np.bincount(TARGETS)))


def test_what_is_drawn_at_random_tells_nothing(diagnostics):
    generator = np.random.default_rng(0)
    entries, targets = generator.integers(0, 16, 500), generator.integers(0, 25, 500)
    raw = diagnostics.information(entries, targets)
    assert raw > 0.3  # 500 images in 400 squares look as if they told something
    assert abs(diagnostics.beyond_chance(entries, targets)) < 0.05


def test_distance(diagnostics):
    assert diagnostics.distance(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])) == pytest.approx(0.5)
    assert diagnostics.distance(np.array([0, 1]), np.array([2, 3])) == pytest.approx(1)
