"""Clustering and retrieval on their own: edges that the comparison with the literal model meets too rarely."""

from __future__ import annotations

import pytest
import torch

from attri.train.config import PromptConfig
from attri.train.model import pool
from attri.train.model.blocks import l2_normalize
from attri.train.model.pool import PromptPool, fit_keys
from attri.train.model.retrieval import farthest_first, lloyd_step, region_means, source_blocks
from attri.train.training import predict


def rows(*values):
    return l2_normalize(torch.tensor(values, dtype=torch.float64))[None]


def test_sources_spread_over_the_image_tower():
    assert source_blocks(12, 12, range(1, 13)) == list(range(1, 13))
    assert source_blocks(24, 12, range(1, 4)) == [2, 4, 6]
    assert source_blocks(6, 12, range(1, 13)) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert source_blocks(24, 12, [11, 12]) == [22, 24]


@pytest.mark.parametrize(("clusters", "first"), [(1, range(16)), (2, range(8)), (4, [0, 1, 4, 5])])
def test_regions_are_halves_and_quadrants(clusters, first):
    means = region_means((4, 4), clusters)
    assert means.shape == (clusters, 16)
    assert means[0].nonzero().flatten().tolist() == list(first)
    assert torch.allclose(means.sum(1), torch.ones(clusters))


def test_more_regions_than_patches_is_refused():
    with pytest.raises(ValueError, match="9 regions do not fit a patch grid of 2 x 2"):
        region_means((2, 2), 9)


def test_an_empty_cluster_keeps_its_centre():
    tokens = rows([1, 0.1], [1, -0.1])
    centres = rows([1, 0], [0, -1])
    moved = lloyd_step(tokens, torch.ones(1, 2, dtype=torch.float64), centres)
    assert torch.equal(moved[0, 1], centres[0, 1])
    assert torch.allclose(moved[0, 0], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_a_token_without_weight_fills_no_cluster():
    tokens, centres = rows([1, 0], [0, 1]), rows([1, 0.2], [0.2, 1])
    moved = lloyd_step(tokens, torch.tensor([[1.0, 0]], dtype=torch.float64), centres)
    assert torch.equal(moved[0, 1], centres[0, 1])


def test_a_tied_token_goes_to_the_lower_cluster():
    tokens, centres = rows([1, 0], [0, 1]), rows([1, 1], [1, 1])
    moved = lloyd_step(tokens, torch.ones(1, 2, dtype=torch.float64), centres)
    assert torch.allclose(moved[0, 0], l2_normalize(torch.tensor([1.0, 1.0], dtype=torch.float64)))
    assert torch.equal(moved[0, 1], centres[0, 1])


def test_farthest_first_is_opposite_and_ties_take_the_first():
    tokens = rows([1, 0.0], [1, 0.1], [-1, 0], [-1, 0])
    tokens = torch.cat([tokens, rows([1, 0.05])], 1)
    chosen = farthest_first(tokens, 2)
    assert torch.equal(chosen[0, 1], tokens[0, 2])


def test_equal_keys_are_retrieved_lower_first():
    pool = PromptPool(PromptConfig(pool_size=4, topk=3, clusters=1), depth=1, width=8, joint=2)
    with torch.no_grad():
        pool.keys.copy_(torch.tensor([[[0.0, 1], [1, 0], [1, 0], [1, 0]]]))
    assert pool.retrieve(torch.tensor([[[[1.0, 0.0]]]])).tolist() == [[[1, 2, 3]]]


def test_entries_are_sorted_and_repeats_are_kept():
    pool = PromptPool(PromptConfig(pool_size=3, clusters=3), depth=1, width=8, joint=3)
    with torch.no_grad():
        pool.keys.copy_(torch.eye(3)[None])
    centres = torch.eye(3)[[2, 0, 2]][None, None]
    assert pool.retrieve(centres).tolist() == [[[0, 2, 2]]]


def test_usage_counts_shares():
    retrieved = torch.tensor([[[0, 0], [1, 2]], [[0, 1], [2, 2]]])
    pools = {shared: PromptPool(PromptConfig(pool_size=3, shared=shared), 2, 8, 3) for shared in (False, True)}
    assert pools[False].usage(retrieved).tolist() == [[0.75, 0.25, 0.0], [0.0, 0.25, 0.75]]
    assert pools[True].usage(retrieved).tolist() == [[0.375, 0.25, 0.375]]


def test_fitted_keys_are_all_in_use_on_what_they_were_fitted_to():
    torch.manual_seed(0)
    config = PromptConfig(pool_size=8, clusters=1, shared=False)
    pool = PromptPool(config, depth=2, width=8, joint=4)
    # 8 tight bunches: keys that start at random would leave some of them without a key, and keys without a bunch.
    bunches = l2_normalize(torch.randn(8, 4)).repeat_interleave(20, 0)
    centres = l2_normalize(bunches + 0.01 * torch.randn_like(bunches))[:, None, None].expand(-1, 2, 1, -1)
    fit_keys(pool, centres, torch.Generator().manual_seed(0))
    assert (pool.usage(pool.retrieve(centres)) > 0).all()


def test_an_image_does_not_depend_on_its_neighbours(make_pixels):
    from support.models import small_backbone

    from attri.train.model import AttriPrompt

    model = AttriPrompt(small_backbone("ViT-B-32", double=True), PromptConfig(clusters=4, lloyd_steps=3))
    pixels = torch.from_numpy(make_pixels(model.backbone.preprocess(), 4)).double()
    _, together = model.encode_image(pixels)
    _, reversed_ = model.encode_image(pixels.flip(0))
    assert torch.allclose(together, reversed_.flip(0), atol=1e-12)


def test_keys_start_from_a_part_of_many_points(monkeypatch):
    centres = l2_normalize(torch.randn(50, 3, 2, 8, generator=torch.Generator().manual_seed(0)))
    seen, kmeans = [], pool.spherical_kmeans
    monkeypatch.setattr(pool, "spherical_kmeans", lambda points, *rest: seen.append(points) or kmeans(points, *rest))
    keys = []
    for most in (100, 100, 300):
        monkeypatch.setattr(pool, "MAX_POINTS", most)
        fresh = PromptPool(PromptConfig(pool_size=4), depth=3, width=5, joint=8)
        fit_keys(fresh, centres, torch.Generator().manual_seed(1))
        keys.append(fresh.keys)
    assert [len(points) for points in seen] == [100, 100, 300]
    assert torch.equal(keys[0], keys[1])
    assert torch.equal(seen[2], centres.reshape(-1, 8))


def test_many_views_are_retrieved_part_by_part(pocket_model, monkeypatch):
    centres = l2_normalize(torch.randn(10, 6, 2, 192, generator=torch.Generator().manual_seed(0)))
    whole, sizes = pocket_model.pool.retrieve(centres), []
    monkeypatch.setattr(predict, "VIEWS_AT_ONCE", 4)
    retrieve = PromptPool.retrieve
    monkeypatch.setattr(PromptPool, "retrieve", lambda self, part: sizes.append(len(part)) or retrieve(self, part))
    assert torch.equal(predict.retrieve(pocket_model, centres), whole)
    assert sizes == [4, 4, 2]
