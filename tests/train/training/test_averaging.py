"""Gaussian-weighted averaging against the sum that it is."""

from __future__ import annotations

import math

import pytest
import torch

from attri.train.config import PromptConfig
from attri.train.model.pool import PromptPool
from attri.train.training.averaging import PromptAverage, weights


@pytest.mark.parametrize(("epochs", "mean", "std"), [(20, 0.75, 0.05), (1, 0.75, 0.05), (50, 0.9, 0.1), (3, 0, 1e-3)])
def test_weights_are_a_gaussian_over_epochs(epochs, mean, std):
    ours = weights(epochs, mean, std)
    assert sum(ours) == pytest.approx(1, abs=1e-12)
    centre, width = mean * epochs, std * epochs
    for a in range(epochs):
        for b in range(epochs):
            if min(ours[a], ours[b]) > 1e-200:
                ratio = (((b + 1 - centre) ** 2) - ((a + 1 - centre) ** 2)) / (2 * width**2)
                assert math.log(ours[a] / ours[b]) == pytest.approx(ratio, rel=1e-9, abs=1e-9)


def test_the_average_is_the_weighted_sum_of_all_that_is_learned():
    pool = PromptPool(PromptConfig(pool_size=4, static_tokens=2), 3, 8, 5)
    average = PromptAverage(pool, [0.1, 0.7, 0.2])
    seen = []
    for epoch in (1, 2, 3):
        torch.manual_seed(epoch)
        for parameter in pool.parameters():
            parameter.data.normal_()
        seen.append({name: value.clone() for name, value in pool.state_dict().items()})
        average.add(pool, epoch)
    again = PromptAverage(pool, [0.1, 0.7, 0.2])
    again.restore(average.tensors())
    for name in ("keys", "tokens", "static"):
        expected = 0.1 * seen[0][name] + 0.7 * seen[1][name] + 0.2 * seen[2][name]
        assert torch.allclose(average.sums[name], expected, atol=1e-6)  # float32, three terms of order 1
        assert torch.equal(again.sums[name], average.sums[name])
