r"""The prompted text encoder, folded: prompts are key/value tables, and only a label's own tokens run per class.

The unfolded encoder (tests/support/literal.py) reads [SOS, p M prompts, words, EOT, padding] in every block under a
causal mask, and replaces the prompts' outputs by the next block's prompts. From this follow equalities:

* tokens after EOT are never attended to, so they are left out;
* prompts enter block l only as attention keys and values, which depend on nothing but the pool entry:
      KV[l, n, i] = ln_1(P[l, n, i]) W_kv + b_kv                             table [L, N, p, 2 W]
  and retrieval is one gather from it;
* SOS and the words that all prompts begin with (the prefix) attend to nothing of the label: they run once per image;
* a label's own tokens (the suffix) attend to the prefix, the prompts and earlier suffix tokens: labels that begin alike
  share these rows (`attri.runtime.text.label_tokens.LabelTokens`), and no row is padding;
* before attention in the first block they do not depend on the image; in the last block only EOT is a query.

Norms and products run on rows. For attention, rows are gathered by label into a padded layout (`token_rows`), which
costs a copy.

Prompts have no positional embedding and their order inside a block does not matter, so an image's text features are a
function of its sorted pool entries. The same code is differentiated in training and traced for export.

Shapes: B images, C classes, P prefix tokens, R rows, T tokens of the longest suffix, S = P + p M + q shared keys, H
heads, W width, d = W / H, D joint width; b is 1 in the first block and B after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attri.train.model.blocks import BlockView, l2_normalize, layer_norm, merge_heads, softmax, upcast
from attri.train.model.open_clip_types import ResidualBlock, TextTransformer

MASKED = -3e4  # added to masked scores: representable in float16, and its exp is 0 in every precision


@dataclass(frozen=True)
class EmbeddedLabels:
    """`LabelTokens` with frozen embeddings instead of ids: prefix [P, W], suffix_tokens [R, W]; the others as there."""

    prefix: Tensor
    suffix_tokens: Tensor
    suffix_positions: Tensor
    token_rows: Tensor
    scatter_index: Tensor
    eot_rows: Tensor


@dataclass(frozen=True)
class Shared:
    """Keys and values that every label attends to: the prefix, then the prompts.

    Attributes:
        k: [B, H, S, d].
        v: [B, H, S, d].
        mask: added to the scores [B, S].
    """

    k: Tensor
    v: Tensor
    mask: Tensor


class TextTower(nn.Module):
    """The frozen parts of an open_clip text tower (CLIP or CustomTextCLIP) that the folded encoder uses."""

    positional_embedding: Tensor

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.causal = getattr(text, "attn_mask", None) is not None
        self.blocks = text.transformer.resblocks
        self.positional_embedding = text.positional_embedding  # [77, W]
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection

    @property
    def joint_width(self) -> int:
        """D, width of the joint space."""
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection.out_features
        return (self.positional_embedding if self.text_projection is None else self.text_projection).shape[1]

    def project(self, x: Tensor) -> Tensor:
        """Project into the joint space. [..., W] -> [..., D]."""
        if self.text_projection is None:
            return x
        if isinstance(self.text_projection, nn.Linear):
            return F.linear(x, self.text_projection.weight, self.text_projection.bias)
        return x @ self.text_projection


def tables(blocks: Sequence[ResidualBlock], tokens: Tensor) -> Tensor:
    """Return the key/value tables of prompt tokens, block by block. tokens [L, ..., W] -> [L, ..., 2 W]."""
    return torch.stack([BlockView(block).keys_values(x) for block, x in zip(blocks, tokens, strict=True)])


def prompted_text(tower: TextTower, pool: Tensor, static: Tensor, retrieved: Tensor, labels: EmbeddedLabels) -> Tensor:
    """Encode every class's prompt for every image.

    Args:
        tower: the frozen text tower.
        pool: key and value table of the pool [L, N, p, 2 W]; L is the prompt depth.
        static: key and value table of the static tokens [L, q, 2 W].
        retrieved: pool entries of each prompted block [B, L, M], integer; N is a masked placeholder.
        labels: embedded tokens of all classes.

    Returns:
        Unit text features [B, C, D].
    """
    P, (C, T), B = labels.prefix.shape[0], labels.token_rows.shape, retrieved.shape[0]
    eot_rows = labels.eot_rows.long() + P
    positions = torch.cat([torch.arange(P, device=eot_rows.device), labels.suffix_positions.long() + P])  # [P + R]
    tokens = torch.cat([labels.prefix, labels.suffix_tokens])
    x = (tokens + F.embedding(positions, tower.positional_embedding))[None]  # [1, P + R, W]
    token_rows, scatter_index = labels.token_rows.flatten().long() + P, labels.scatter_index.long()
    place = torch.arange(T, device=eot_rows.device)
    before = additive(place <= place[:, None], x)  # [T, T]
    up_to_eot = additive(place <= positions.index_select(0, eot_rows)[:, None, None] - P, x)  # [C, 1, T]

    for index, module in enumerate(tower.blocks):
        block = BlockView(module)
        k, v = block.split_keys_values(block.keys_values(x))  # [b, H, P + R, d]; the prefix's few rows in one product
        k_prefix, v_prefix = (y[:, :, :P].expand(B, -1, -1, -1) for y in (k, v))
        shared = Shared(k_prefix, v_prefix, x.new_zeros(B, P))  # [B, H, P, d]
        if index < len(pool):
            shared = with_prompts(block, shared, pool[index], static[index], retrieved[:, index])
        k_suffix, v_suffix = (y.index_select(2, token_rows) for y in (k, v))  # [b, H, C T, d]
        if index < len(tower.blocks) - 1:
            q = block.query(x)
            prefix = attend_prefix(q[:, :, :P].expand(B, -1, -1, -1), shared)  # [B, P, W]
            suffix = attend_suffix(q.index_select(2, token_rows), k_suffix, v_suffix, shared, before, C)  # [B, C T, W]
            x = block.finish(x, torch.cat([prefix, suffix.index_select(1, scatter_index)], 1))  # [B, P + R, W]
        else:
            x = x.index_select(1, eot_rows)  # [b, C, W]
            x = block.finish(x, attend_suffix(block.query(x), k_suffix, v_suffix, shared, up_to_eot, C))  # [B, C, W]
    return l2_normalize(upcast(tower.project(layer_norm(tower.ln_final, x))))  # [B, C, D]


def additive(visible: Tensor, like: Tensor) -> Tensor:
    """Return an additive mask: 0 where visible, MASKED elsewhere, in the dtype of `like`."""
    return (~visible).to(like.dtype) * MASKED


def with_prompts(block: BlockView, shared: Shared, pool: Tensor, static: Tensor, retrieved: Tensor) -> Shared:
    """Append one block's retrieved and static prompts. pool [N, p, 2 W], static [q, 2 W], retrieved [B, M]."""
    (N, p, kv), (B, M) = pool.shape, retrieved.shape
    entries = torch.minimum(retrieved, torch.full_like(retrieved, N - 1))
    chosen = F.embedding(entries, pool.reshape(N, p * kv)).reshape(B, M * p, kv)  # [B, M p, 2 W]
    visible = (retrieved < N)[:, :, None].expand(B, M, p).reshape(B, M * p)
    mask = [shared.mask, additive(visible, pool)]
    if static.shape[0]:
        chosen = torch.cat([chosen, static.expand(B, -1, -1)], 1)
        mask.append(shared.mask.new_zeros(B, static.shape[0]))
    k, v = block.split_keys_values(chosen)
    return Shared(torch.cat([shared.k, k], 2), torch.cat([shared.v, v], 2), torch.cat(mask, 1))


def attend_prefix(q: Tensor, shared: Shared) -> Tensor:
    """Attend from the prefix to itself and the prompts. q [B, H, P, d] -> [B, P, W].

    SOS stands before the prompts and sees itself alone, so its state is the same for every image.
    """
    P, S = q.shape[2], shared.k.shape[2]
    row, column = torch.arange(P, device=q.device)[:, None], torch.arange(S, device=q.device)[None, :]
    mask = additive((column <= row) | ((column >= P) & (row > 0)), q)  # [P, S]
    scores = q @ shared.k.transpose(-1, -2) + (mask + shared.mask[:, None, None])  # [B, H, P, S]
    return merge_heads(softmax(scores) @ shared.v)


def attend_suffix(q: Tensor, k: Tensor, v: Tensor, shared: Shared, mask: Tensor | None, classes: int) -> Tensor:
    """Attend from the suffix tokens to all shared keys and to the keys of their class that `mask` allows.

    q [b, H, C Q, d]; k, v [b, H, C T, d]; mask [Q, T] or [C, 1, T], or None: all -> [B, C Q, W]
    """
    b, H, rows, d = q.shape
    B, C, S = shared.k.shape[0], classes, shared.k.shape[2]
    T = k.shape[2] // C
    q_class, k_class, v_class = (x.reshape(b, H, C, -1, d) for x in (q, k, v))
    among_shared = q @ shared.k.transpose(-1, -2) + shared.mask[:, None, None]  # [B, H, C Q, S]
    among_suffix = q_class @ k_class.transpose(-1, -2)  # [b, H, C, Q, T]
    among_suffix = (among_suffix if mask is None else among_suffix + mask).expand(B, -1, -1, -1, -1)
    weights = softmax(torch.cat([among_shared.reshape(B, H, C, q_class.shape[3], S), among_suffix], -1))
    of_shared, of_suffix = torch.split(weights, [S, T], -1)
    attended = of_shared.reshape(B, H, rows, S) @ shared.v + (of_suffix @ v_class).reshape(B, H, rows, d)
    return merge_heads(attended)
