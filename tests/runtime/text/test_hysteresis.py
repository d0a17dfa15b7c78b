"""Hysteresis of retrieval: exact without a margin, and with one just what the rule says, entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attri.runtime.errors import UsageError
from attri.runtime.text.hysteresis import RetrievalHysteresis


def ties(frames: int = 60, entries: int = 40) -> np.ndarray:
    """Scores [frames, L = 3, K = 2, N] on 12 levels: all frames have ties. Eighths, so that sums are exact."""
    return (np.random.default_rng(0).integers(0, 12, (frames, 3, 2, entries)) / 8).astype(np.float32)


def best(scores: np.ndarray, count: int) -> list[int]:
    """Of one centre [N]: the entries in the order of their scores, the lower first where two are equal."""
    return sorted(range(len(scores)), key=lambda entry: (-scores[entry], entry))[:count]


@pytest.mark.parametrize("topk", [1, 2, 5])
def test_no_margin_is_exact_retrieval(topk):
    steady = RetrievalHysteresis(0, topk)
    for scores in ties():
        retrieved = steady(scores)
        exact = [sorted(entry for centre in block for entry in best(centre, topk)) for block in scores]
        assert retrieved.tolist() == exact
        assert (retrieved.dtype, retrieved.shape) == (np.int32, (3, 2 * topk))


@pytest.mark.parametrize("topk", [1, 2])
def test_no_margin_retrieves_what_the_model_does(topk, pocket_model, make_pixels):
    import torch

    from attri.train.config import PromptConfig
    from attri.train.model.pool import PromptPool

    pixels = torch.from_numpy(make_pixels(pocket_model.backbone.preprocess(), 24))
    torch.manual_seed(0)
    pool = PromptPool(PromptConfig(topk=topk), 6, 128, 192)
    with torch.no_grad():
        centres = pocket_model.encode_image(pixels)[1]  # [B, L, K, D]
        scores = pool.scores(centres).numpy()  # [B, L, K, N]
    steady = RetrievalHysteresis(0, topk)
    assert np.stack([steady(frame) for frame in scores]).tolist() == pool.retrieve(centres).tolist()


@pytest.mark.parametrize("margin", [0.125, 0.25, 0.5])
def test_an_entry_stays_while_it_is_within_the_margin_of_the_best(margin):
    """The rule for one entry per centre, said without adding anything to the scores of others."""
    steady, stayed = RetrievalHysteresis(margin), 0
    previous: dict[tuple[int, int], int] = {}
    for scores in ties():
        for block, centre in np.ndindex(3, 2):
            now, old = scores[block, centre], previous.get((block, centre))
            first = best(now, 1)[0]
            behind = math.inf if old is None else now[first] - now[old]
            # Just at the margin the two are equal, and the lower entry wins.
            keep = behind < margin or (behind == margin and old < first)
            previous[block, centre] = old if keep else first
            stayed += keep and old != first
        assert steady(scores).tolist() == [sorted(previous[block, centre] for centre in (0, 1)) for block in range(3)]
    assert stayed > 20


def test_several_entries_of_a_centre_are_each_replaced_only_by_a_clear_winner():
    steady = RetrievalHysteresis(0.1, topk=2)
    frames = [[0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.85, 0.0], [0.5, 0.8, 0.85, 0.0], [0.9, 0.8, 0.85, 0.0]]
    retrieved = [steady(np.array([[frame]], np.float32)).tolist() for frame in frames]
    assert retrieved == [[[0, 1]], [[0, 1]], [[1, 2]], [[1, 2]]]


def test_a_flicker_between_near_ties_stops_and_a_new_scene_comes_through():
    steady = RetrievalHysteresis(0.02)
    frames = [[0.50, 0.49], [0.49, 0.50], [0.50, 0.49], [0.10, 0.90], [0.50, 0.49], [0.51, 0.47]]
    assert [int(steady(np.array([[frame]], np.float32))[0, 0]) for frame in frames] == [0, 0, 0, 1, 1, 0]


def test_scores_are_not_written_to():
    scores = ties(2)
    kept = scores.copy()
    scores.flags.writeable = False  # an engine may lend its own memory
    steady = RetrievalHysteresis(0.5)
    for frame in scores:
        steady(frame)
    assert np.array_equal(scores, kept)


@pytest.mark.parametrize(
    ("margin", "topk", "words"),
    [(-0.1, 1, "-0.1"), (math.nan, 1, "nan"), (math.inf, 1, "inf"), (0.1, 0, "topk is 0")],
)
def test_what_is_no_margin_is_refused(margin, topk, words):
    with pytest.raises(UsageError, match=words):
        RetrievalHysteresis(margin, topk)
