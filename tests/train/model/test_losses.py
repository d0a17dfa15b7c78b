"""Each loss against loops that say what it is, values and gradients; float64, so 1e-12 is the order of summation."""

from __future__ import annotations

import math

import pytest
import torch

from attri.train.model import losses
from attri.train.model.blocks import l2_normalize

B, C, D, L, K, N = 3, 4, 5, 2, 2, 6


@pytest.fixture
def case():
    torch.manual_seed(0)
    text = l2_normalize(torch.randn(B, C, D, dtype=torch.float64))
    frozen = l2_normalize(torch.randn(C, D, dtype=torch.float64))
    keys = torch.randn(L, N, D, dtype=torch.float64, requires_grad=True)
    centres = l2_normalize(torch.randn(B, L, K, D, dtype=torch.float64))
    return text, frozen, keys, centres


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_class_stream():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0]], dtype=torch.float64)
    expected = -(math.log(softmax(logits[0].tolist())[1]) + math.log(softmax(logits[1].tolist())[0])) / 2
    assert losses.class_stream(logits, torch.tensor([1, 0])).mean().item() == pytest.approx(expected, abs=1e-12)


def test_text_distance(case):
    text, frozen, _, _ = case
    total = sum(abs(float(text[b, c, d] - frozen[c, d])) for b in range(B) for c in range(C) for d in range(D))
    assert losses.text_distance(text, frozen).mean().item() == pytest.approx(total / (B * C * D), abs=1e-12)


def test_prediction_distance_is_kl_of_frozen_to_prompted():
    torch.manual_seed(1)
    ours, frozen = torch.randn(2, B, C, dtype=torch.float64).unbind()
    expected = 0.0
    for b in range(B):
        p, q = softmax(frozen[b].tolist()), softmax(ours[b].tolist())
        expected += sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True)) / B
    assert losses.prediction_distance(ours, frozen).mean().item() == pytest.approx(expected, abs=1e-12)
    assert losses.prediction_distance(frozen, frozen).mean().item() == pytest.approx(0, abs=1e-12)


def info_nce(row, positives):
    """-1/|P| sum over P of log softmax(row), one anchor."""
    probabilities = softmax(row)
    return -sum(math.log(probabilities[p]) for p in positives) / len(positives)


@pytest.mark.parametrize("targets", [[0, 1, 2], [3, 0, 3], [2, 2, 2]], ids=["all differ", "two alike", "all alike"])
def test_instance_stream_and_its_gradient(case, targets):
    text, _, _, _ = case
    text.requires_grad_()
    features, scale = l2_normalize(torch.randn(B, D, dtype=torch.float64)), 17.0
    y = torch.tensor(targets)
    similarity = losses.instance_similarity(features, y, text, scale)
    ours = losses.instance_stream(similarity, y)

    plain = text.detach()
    pairs = [
        [scale * sum(features[i, d] * plain[j, targets[i], d] for d in range(D)) for j in range(B)] for i in range(B)
    ]
    total = 0.0
    for anchor in range(B):
        alike = [other for other in range(B) if targets[other] == targets[anchor]]
        row = [float(value) for value in pairs[anchor]]
        column = [float(pairs[i][anchor]) for i in range(B)]
        total += (info_nce(row, alike) + info_nce(column, alike)) / (2 * B)
    assert ours.item() == pytest.approx(total, abs=1e-12)

    (gradient,) = torch.autograd.grad(ours, text)
    step = 1e-6
    for index in [(0, targets[0], 0), (1, targets[2], 3), (2, targets[0], 4)]:
        moved = []
        for sign in (1, -1):
            changed = text.detach().clone()
            changed[index] += sign * step
            moved.append(losses.instance_stream(losses.instance_similarity(features, y, changed, scale), y))
        # Central differences are right to step^2, and lose 1e-16 / step to rounding.
        assert gradient[index].item() == pytest.approx((moved[0] - moved[1]).item() / (2 * step), abs=1e-8)


def test_instance_stream_prefers_prompts_of_the_own_image():
    targets = torch.tensor([0, 1])
    fits = losses.instance_stream(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), targets)
    crossed = losses.instance_stream(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), targets)
    assert fits < 0.01 < 8 < crossed


@pytest.mark.parametrize("topk", [1, 2])
def test_retrieval_distance_and_its_gradient(case, topk):
    _, _, keys, centres = case
    ours = losses.retrieval_distance(centres, l2_normalize(keys), topk).mean()
    total = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        for block in range(L):
            for k in range(K):
                cosines = [centres[b, block, k] @ (key / key.norm()) for key in keys[block]]
                total = total + sum(1 - value for value in sorted(cosines, key=torch.Tensor.item, reverse=True)[:topk])
    literal = total / (B * L * K * topk)
    assert ours.item() == pytest.approx(literal.item(), abs=1e-12)
    mine, theirs = (torch.autograd.grad(value, keys)[0] for value in (ours, literal))
    assert theirs.abs().max() > 0
    assert (mine - theirs).abs().max() < 1e-12


def test_key_crowding(case):
    _, _, keys, _ = case
    unit_keys = l2_normalize(keys.detach())
    pairs = [
        abs(float(unit_keys[block, m] @ unit_keys[block, n]))
        for block in range(L)
        for m in range(N)
        for n in range(N)
        if m != n
    ]
    assert losses.key_diversity(unit_keys).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert losses.key_diversity(unit_keys[:, :1]).item() == 0


def test_a_broken_term_is_named():
    terms = {"class": torch.tensor(1.0), "text": torch.tensor(math.nan), "logits": torch.tensor(math.inf)}
    assert losses.first_non_finite(terms) == "text"
    assert losses.first_non_finite({"class": torch.tensor(1.0)}) is None
