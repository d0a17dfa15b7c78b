r"""The text encoder with prompts, folded: prompts are tables, and only a label's own tokens are computed per class.

The literal encoder reads [SOS, p M prompts, words..., EOT, padding] in every block, causally, and replaces what a block
made of the prompts by the next block's prompts. From that follow equalities:

* tokens after EOT are never read: they are left out;
* prompts enter block l only through their keys and values, which depend on nothing but the entry:
      KV[l, n, i] = ln_1(P[l, n, i]) W_kv + b_kv                             table [L, N, p, 2 W]
  and retrieval is one gather from it;
* SOS and the words that all prompts begin with (the prefix) see SOS, prompts and themselves: once per image;
* a label's own tokens (the suffix) see the prefix, the prompts and those before them: labels that begin alike share
  these rows (`attri.runtime.text.label_tokens.LabelTokens`), and no row is padding;
* in the first block they do not depend on the image before they have attended; in the last block only EOT asks.

Norms and products run on rows. For attention rows are laid out by label, padded (`token_rows`), which costs a copy.

Prompts carry no position and order inside a block does not matter, so an image's text features are a function of its
sorted retrieved entries. The same code trains (it is differentiable) and is traced for export.

Shapes: B images, C classes, P prefix tokens, R rows, T tokens of the longest suffix, S = P + p M + q shared keys, H
heads, W width, d = W / H, D joint width; b is 1 in the first block and B after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attri.train.model.blocks import BlockView, l2_normalize, layer_norm, merge_heads, softmax, upcast

MASKED = -3e4  # added to scores that must not count: fits float16, and exp of it is 0 in every precision


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
    """Keys and values that every label sees, the prefix's first. k, v [B, H, S, d]; mask, to be added [B, S]"""

    k: Tensor
    v: Tensor
    mask: Tensor


class TextTower(nn.Module):
    """The frozen parts of an open_clip text tower that the folded encoder needs, from a CLIP or a CustomTextCLIP."""

    positional_embedding: Tensor

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.blocks = cast(nn.ModuleList, cast(nn.Module, text.transformer).resblocks)
        self.positional_embedding = cast(Tensor, text.positional_embedding)  # [77, W]
        self.ln_final = cast(nn.Module, text.ln_final)
        self.text_projection = cast("Tensor | nn.Linear | None", text.text_projection)

    def project(self, x: Tensor) -> Tensor:
        if self.text_projection is None:
            return x
        if isinstance(self.text_projection, nn.Linear):
            return F.linear(x, self.text_projection.weight, self.text_projection.bias)
        return x @ self.text_projection


def tables(tower: TextTower, tokens: Tensor) -> Tensor:
    """Keys beside values of prompt tokens, block by block. tokens [L, ..., W] -> [L, ..., 2 W]"""
    return torch.stack([BlockView(block).keys_values(x) for block, x in zip(tower.blocks, tokens, strict=False)])


def prompted_text(tower: TextTower, pool: Tensor, static: Tensor, retrieved: Tensor, labels: EmbeddedLabels) -> Tensor:
    """Unit text features of every class for every image, [B, C, D].

    Args:
        pool: key and value table of the pool [L, N, p, 2 W]; L is the prompt depth.
        static: key and value table of the static tokens [L, q, 2 W].
        retrieved: entries of each prompted block [B, L, M], integer; N stands for none, which nothing sees.
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
    """0 where visible, MASKED elsewhere, in the dtype of `like`."""
    return (~visible).to(like.dtype) * MASKED


def with_prompts(block: BlockView, shared: Shared, pool: Tensor, static: Tensor, retrieved: Tensor) -> Shared:
    """Add what one block is prompted with. pool [N, p, 2 W], static [q, 2 W], retrieved [B, M]"""
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
    """The prefix among itself and the prompts. q [B, H, P, d] -> [B, P, W]

    SOS stands before the prompts and sees itself alone, so its state is the same for every image.
    """
    P, S = q.shape[2], shared.k.shape[2]
    row, column = torch.arange(P, device=q.device)[:, None], torch.arange(S, device=q.device)[None, :]
    mask = additive((column <= row) | ((column >= P) & (row > 0)), q)  # [P, S]
    scores = q @ shared.k.transpose(-1, -2) + (mask + shared.mask[:, None, None])  # [B, H, P, S]
    return merge_heads(softmax(scores) @ shared.v)


def attend_suffix(q: Tensor, k: Tensor, v: Tensor, shared: Shared, mask: Tensor, classes: int) -> Tensor:
    """Suffix tokens among the shared keys, all of which they see, and those of their class that `mask` lets through.

    q [b, H, C Q, d]; k, v [b, H, C T, d]; mask [Q, T] or [C, 1, T] -> [B, C Q, W]
    """
    b, H, rows, d = q.shape
    B, C, S = shared.k.shape[0], classes, shared.k.shape[2]
    T = k.shape[2] // C
    q_class, k_class, v_class = (x.reshape(b, H, C, -1, d) for x in (q, k, v))
    among_shared = q @ shared.k.transpose(-1, -2) + shared.mask[:, None, None]  # [B, H, C Q, S]
    among_suffix = (q_class @ k_class.transpose(-1, -2) + mask).expand(B, -1, -1, -1, -1)  # [B, H, C, Q, T]
    weights = softmax(torch.cat([among_shared.reshape(B, H, C, -1, S), among_suffix], -1))
    of_shared, of_suffix = torch.split(weights, [S, T], -1)
    attended = of_shared.reshape(B, H, rows, S) @ shared.v + (of_suffix @ v_class).reshape(B, H, rows, d)
    return merge_heads(attended)
