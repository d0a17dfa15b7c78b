r"""The loss terms: class and instance stream, self-regularization, retrieval.

v_i: unit image feature [B, D]; T_c(x_i): unit text feature of class c, prompted by image i [B, C, D]; s: logit scale.

    class stream          CE_c( s v_i . T_c(x_i), y_i )                                           paper
    instance stream       S_ij = s v_i . T_{y_i}(x_j), supervised InfoNCE over rows and columns   paper; S: our reading
    self-regularization   mean |T_c(x_i) - T0_c|  and  KL( softmax z0_i || softmax z_i )          paper; KL: our choice
    retrieval             mean (1 - cos(c, chosen key)),  mean_{m != n} |cos(key_m, key_n)|       our choice

The class stream contrasts classes for one image. The instance stream contrasts images for one class: the prompts of
the right image must fit it best, so that prompted text features carry the images' visual information. T0_c is the
frozen feature without prompts, averaged over templates, and z0_i its logits. Retrieved indices carry no gradient, so
only the retrieval terms train the keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_stream(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each image. logits [B, C], targets [B] -> [B]."""
    return F.cross_entropy(logits, targets, reduction="none")


def instance_similarity(features: Tensor, targets: Tensor, text: Tensor, scale: float) -> Tensor:
    """Return S_ij = s v_i . T_{y_i}(x_j): images i against the prompts of images j.

    features [B, D] and targets [B] of the rows; text [B', C, D] of the columns -> [B, B']
    """
    # Not text[targets]: on a CPU its gradient is added up by several threads in whatever order they come.
    of_class = text.transpose(0, 1).index_select(0, targets)  # [B, B', D]
    return scale * (of_class @ features[:, :, None]).squeeze(-1)


def instance_stream(similarity: Tensor, targets: Tensor) -> Tensor:
    r"""Return the symmetric supervised InfoNCE loss, images of one class being positives (Khosla et al. 2020, L_out).

        1/2 mean_i -1/|P_i| sum_{j in P_i} log softmax_j(S_ij)  +  1/2 the same of S transposed,  P_i = {j: y_j = y_i}

    similarity [B, B], targets [B] -> scalar
    """
    positive = (targets[:, None] == targets[None, :]).to(similarity.dtype)  # [B, B]
    share = positive / positive.sum(1, keepdim=True)
    rows, columns = similarity.log_softmax(1), similarity.T.log_softmax(1)
    return -(share * (rows + columns)).sum(1).mean() / 2


def text_distance(text: Tensor, frozen: Tensor) -> Tensor:
    """Return the mean absolute difference of features per image. text [B, C, D], frozen [C, D] -> [B]."""
    return (text - frozen).abs().mean((1, 2))


def prediction_distance(logits: Tensor, frozen: Tensor) -> Tensor:
    """Return KL(softmax frozen || softmax logits) per image. Both [B, C] -> [B]."""
    return F.kl_div(logits.log_softmax(-1), frozen.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def retrieval_distance(centres: Tensor, keys: Tensor, topk: int) -> Tensor:
    """Return the mean of 1 - cosine of centres and their top-k keys, per image.

    centres: unit [B, L, K, D], keys: unit [L, N, D] -> [B]
    """
    best = (centres @ keys.transpose(-1, -2)).topk(topk, -1).values  # [B, L, K, k]
    return (1 - best).mean((1, 2, 3))


def key_diversity(keys: Tensor) -> Tensor:
    """Return the mean absolute cosine between different keys of a block. keys: unit [L, N, D] -> scalar."""
    count = keys.shape[1]
    if count < 2:
        return keys.new_zeros(())
    gram = (keys @ keys.transpose(-1, -2)).abs()  # [L, N, N]
    off_diagonal = gram.sum((-1, -2)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (off_diagonal / (count * (count - 1))).mean()


def first_non_finite(terms: dict[str, Tensor]) -> str | None:
    """Return the name of the first term that is NaN or infinite, or None."""
    return next((name for name, value in terms.items() if not torch.isfinite(value)), None)
