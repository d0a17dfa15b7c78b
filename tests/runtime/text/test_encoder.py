"""Text features through the cache and the shortlist: computed only where they are needed, and then the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.engines import WatchedEngine, token_rows

from attri.runtime.bundle import TEXT, Bundle
from attri.runtime.engines.verify import ReferenceSet, read_reference
from attri.runtime.text.cache import TextCache
from attri.runtime.text.encoder import TextEncoder

SUMS = 1e-5  # the same graph on other shapes adds up in another order
LABELS = ["red apple", "green apple", "bird", "a small house", "car"]
MANY = [f"{colour} {thing}" for colour in ("red", "green", "old") for thing in ("apple", "bird", "car", "shoe")]


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def images(opened: Bundle) -> ReferenceSet:
    """Real images, their features and pool entries."""
    return read_reference(opened)


@pytest.fixture
def engine(opened: Bundle) -> WatchedEngine:
    return WatchedEngine(opened.graph(TEXT))


def test_only_new_labels_are_computed(opened: Bundle, engine: WatchedEngine, images: ReferenceSet) -> None:
    encoder = TextEncoder(opened, engine, TextCache())
    entries = images.retrieved[:1]
    encoder.features(encoder.label_set(opened.prompt, LABELS), entries)
    engine.runs.clear()
    (found,), hits = encoder.features(encoder.label_set(opened.prompt, [*LABELS, "teapot"]), entries)
    assert hits == [False]
    assert [token_rows(run) for run in engine.runs] == [3]  # teapot, the full stop and EOT
    fresh = TextEncoder(opened, engine, TextCache())
    (wanted,), _ = fresh.features(fresh.label_set(opened.prompt, [*LABELS, "teapot"]), entries)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=SUMS)
    assert encoder.features(encoder.label_set(opened.prompt, ["teapot", "bird"]), entries)[1] == [True]


@pytest.mark.parametrize("more", [0, 5])
def test_no_more_labels_than_the_shortlist_need_no_zero_shot_features(
    opened: Bundle, engine: WatchedEngine, more: int
) -> None:
    labels = TextEncoder(opened, engine, TextCache(), shortlist=len(MANY) + more).label_set(opened.prompt, MANY)
    assert labels.zero_shot_features is None
    assert engine.runs == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_shortlist_counts_labels_and_takes_all_their_prompts(
    opened: Bundle, engine: WatchedEngine, images: ReferenceSet, count: int
) -> None:
    """Those with the best plain prompt: so many labels can be shown, and each was prompted in whole."""
    prompts = [["red apple", "old apple", "green apple"], ["bird", "a bird", "red bird"], ["car"], ["house", "a shoe"]]
    words = [group[0] for group in prompts]
    exact, listed = (TextEncoder(opened, engine, TextCache(), shortlist) for shortlist in (None, count))
    labels = listed.label_set(opened.prompt, words, prompts=prompts)
    assert labels.zero_shot_features is not None
    for image, retrieved in zip(images.image_features[:, None], images.retrieved[:, None], strict=True):
        (found,), _ = listed.cosines(labels, image, retrieved)
        (whole,), _ = exact.cosines(exact.label_set(opened.prompt, words, prompts=prompts), image, retrieved)
        bare = (labels.zero_shot_features @ image[0])[labels.prompt_index]
        best = np.maximum.reduceat(bare, labels.label_offsets)
        prompted = np.repeat(best >= np.sort(best)[-count], [len(group) for group in prompts])
        assert np.abs(whole - bare).min() > 10 * SUMS
        np.testing.assert_allclose(found, np.where(prompted, whole, bare), rtol=0, atol=SUMS)


def test_a_shortlist_computes_no_more_than_its_labels(
    opened: Bundle, engine: WatchedEngine, images: ReferenceSet
) -> None:
    encoder = TextEncoder(opened, engine, TextCache(), shortlist=2)
    labels = encoder.label_set(opened.prompt, MANY)
    engine.runs.clear()
    encoder.cosines(labels, images.image_features[:1], images.retrieved[:1])
    assert [token_rows(run) for run in engine.runs] == [2 * 4]  # two prompts of colour, thing, full stop and EOT
    engine.runs.clear()
    encoder.label_set(opened.prompt, [*MANY, "teapot"])
    assert [token_rows(run) for run in engine.runs] == [3]  # the plain features of the one new label
