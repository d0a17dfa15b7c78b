r"""What the prompt is trained on.

v_i: unit image feature [B, D]; T_c(x_i): prompted text feature [B, C, D]; s: logit scale.

    class stream          CE_c( s v_i . T_c(x_i), y_i )                                           paper
    self-regularization   mean |T_c(x_i) - T0_c|  and  KL( softmax z0_i || softmax z_i )          paper; KL: our choice
    retrieval             mean (1 - cos(c, chosen key)),  mean_{m != n} |cos(key_m, key_n)|       our choice

T0_c is the frozen feature without prompts, averaged over templates; z0_i are its logits. Retrieval indices carry no
gradient, so the retrieval terms are all that moves the keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_stream(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [B, C], targets [B] -> scalar"""
    return F.cross_entropy(logits, targets)


def text_distance(text: Tensor, frozen: Tensor) -> Tensor:
    """Mean absolute difference of features. text [B, C, D], frozen [C, D] -> scalar"""
    return (text - frozen).abs().mean()


def prediction_distance(logits: Tensor, frozen: Tensor) -> Tensor:
    """KL(softmax frozen || softmax logits), mean over images. Both [B, C] -> scalar"""
    return F.kl_div(logits.log_softmax(-1), frozen.log_softmax(-1), log_target=True, reduction="batchmean")


def retrieval_distance(centres: Tensor, keys: Tensor, topk: int) -> Tensor:
    """How far centres are from the keys that they choose. centres [B, L, K, D], keys [L, N, D], unit -> scalar"""
    best = (centres @ keys.transpose(-1, -2)).topk(topk, -1).values  # [B, L, K, k]
    return (1 - best).mean()


def key_crowding(keys: Tensor) -> Tensor:
    """Mean absolute cosine between different keys of a block. keys: unit [L, N, D] -> scalar"""
    count = keys.shape[1]
    if count < 2:
        return keys.new_zeros(())
    gram = (keys @ keys.transpose(-1, -2)).abs()  # [L, N, N]
    off_diagonal = gram.sum((-1, -2)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (off_diagonal / (count * (count - 1))).mean()


def first_broken(terms: dict[str, Tensor]) -> str | None:
    """The name of the first term that is NaN or infinite, or None."""
    return next((name for name, value in terms.items() if not torch.isfinite(value)), None)
