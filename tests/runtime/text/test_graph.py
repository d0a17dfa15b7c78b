"""The text graph in parts: the same features, within memory and the engine's limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.engines import WatchedEngine, token_rows

from attri.runtime.bundle import TEXT, Bundle
from attri.runtime.engines.verify import read_reference
from attri.runtime.text import graph as module
from attri.runtime.text.graph import TextGraph
from attri.runtime.text.label_inputs import LabelInputs
from attri.runtime.text.label_tokens import LabelTokens, encode_labels
from attri.runtime.tokenizer import Tokenizer

SUMS = 1e-5  # the same graph on other shapes adds up in another order


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def retrieved(opened: Bundle) -> np.ndarray:
    """Pool entries of two real images, int32 [2, L, M]"""
    return read_reference(opened, 2).retrieved


def things(count: int) -> LabelTokens:
    return encode_labels(Tokenizer(), [f"thing number {i}" for i in range(count)], "a photo of a {}.")


def features(opened: Bundle, tokens: LabelTokens, retrieved: np.ndarray) -> np.ndarray:
    """In one run where memory allows it [B, C, D]"""
    graph = TextGraph(WatchedEngine(opened.graph(TEXT)), LabelInputs(opened.token_embedding()))
    return np.stack(graph.run(tokens, retrieved, opened.prompt))


@pytest.mark.stress
@pytest.mark.parametrize(("count", "limit"), [(2000, 4096), (7, 6), (7, 1)])
def test_many_labels_run_in_parts(
    opened: Bundle, retrieved: np.ndarray, monkeypatch: pytest.MonkeyPatch, count: int, limit: int
) -> None:
    tokens = things(count)
    wanted = features(opened, tokens, retrieved)
    engine = WatchedEngine(opened.graph(TEXT))
    monkeypatch.setattr(module, "ROWS", limit)
    found = TextGraph(engine, LabelInputs(opened.token_embedding())).run(tokens, retrieved, opened.prompt)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=SUMS)
    assert len(engine.runs) > 1
    assert max(map(token_rows, engine.runs)) <= max(limit, tokens.token_rows.shape[1])


def test_an_engine_s_limits_are_kept(opened: Bundle, retrieved: np.ndarray) -> None:
    limits = {"B": 1, "C": 3, "R": 9}
    engine = WatchedEngine(opened.graph(TEXT), limits)
    found = TextGraph(engine, LabelInputs(opened.token_embedding())).run(things(7), retrieved, opened.prompt)
    np.testing.assert_allclose(found, features(opened, things(7), retrieved), rtol=0, atol=SUMS)

    def extents(run: Mapping[str, np.ndarray]) -> dict[str, int]:
        return {"B": len(run["retrieved"]), "C": len(run["token_rows"]), "R": len(run["suffix_tokens"])}

    assert all(extents(run)[name] <= most for run in engine.runs for name, most in limits.items())


def test_one_long_label_among_many_costs_little_padding(opened: Bundle, retrieved: np.ndarray) -> None:
    labels = [*(f"thing {i}" for i in range(1500)), "very " * 20 + "long thing"]
    tokens = encode_labels(Tokenizer(), labels, "a {}.", opened.manifest.text["context_length"])
    assert tokens.token_rows.size > module.ROWS
    engine = WatchedEngine(opened.graph(TEXT))
    (found,) = TextGraph(engine, LabelInputs(opened.token_embedding())).run(tokens, retrieved[:1], opened.prompt)
    assert sum(map(token_rows, engine.runs)) < 2 * tokens.lengths.sum()
    some = np.array([0, 700, 1499, 1500])  # each feature is where its label is
    (alone,) = features(opened, tokens.take(some), retrieved[:1])
    np.testing.assert_allclose(found[some], alone, rtol=0, atol=SUMS)


def test_each_image_s_features_own_their_memory(opened: Bundle, retrieved: np.ndarray) -> None:
    """A view would keep its whole batch alive, and the cache's bound would count a part of it."""
    graph = TextGraph(WatchedEngine(opened.graph(TEXT)), LabelInputs(opened.token_embedding()))
    assert all(each.base is None for each in graph.run(things(3), retrieved, opened.prompt))
