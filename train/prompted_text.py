r"""The text encoder with prompts, folded: prompts are tables, and only a label's own tokens are computed per class.

The literal encoder reads [SOS, p M prompts, words..., EOT, padding] in every block, causally, and replaces what a block
made of the prompts by the next block's prompts. From that follow equalities (DESIGN.md, section 3):

* tokens after EOT are never read: they are left out;
* prompts enter block l only through their keys and values, which depend on nothing but the entry:
      KV[l, n, i] = ln_1(P[l, n, i]) W_kv + b_kv                             table [L, N, p, 2 W]
  and retrieval is one gather from it;
* SOS and the words that all prompts begin with (the stem) see SOS, prompts and themselves: once per image;
* a label's own tokens see the stem, the prompts and themselves; in the last block only EOT asks.

Prompts carry no position and order inside a block does not matter, so an image's text features are a function of its
sorted retrieved entries. The same code trains (it is differentiable) and is traced for export.

Shapes: B images, C classes, P stem tokens, T own tokens, S = P + p M + q shared keys, H heads, W width, D joint width.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attri.train.transformer import Block, layer_norm, merge_heads, softmax, unit, wide

MASKED = -3e4  # added to scores that must not count: fits float16, and exp of it is 0 in every precision


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
    return torch.stack([Block(block).keys_values(x) for block, x in zip(tower.blocks, tokens, strict=False)])


def prompted_text(
    tower: TextTower, pool: Tensor, static: Tensor, retrieved: Tensor, stem: Tensor, own: Tensor, lengths: Tensor
) -> Tensor:
    """Unit text features of every class for every image, [B, C, D].

    Args:
        pool: key and value table of the pool [L, N, p, 2 W]; L is the prompt depth.
        static: key and value table of the static tokens [L, q, 2 W].
        retrieved: entries of each prompted block [B, L, M], integer.
        stem: embeddings of the shared first tokens, SOS first, without positions [P, W].
        own: embeddings of each class's own tokens, EOT last, padded, without positions [C, T, W].
        lengths: own tokens per class, EOT included [C], integer.
    """
    (P, _), (C, T, W), B = stem.shape, own.shape, retrieved.shape[0]
    positions = tower.positional_embedding
    x_stem = (stem + positions[:P]).expand(B, P, W)
    x_own = (own + positions[P : P + T]).expand(B, C, T, W).reshape(B, C * T, W)
    causal = additive(torch.arange(T, device=own.device) <= torch.arange(T, device=own.device)[:, None], own)  # [T, T]
    up_to_eot = additive(torch.arange(T, device=own.device) < lengths[:, None, None], own)  # [C, 1, T]

    last = len(tower.blocks) - 1
    for index, module in enumerate(tower.blocks):
        block = Block(module)
        q_stem, k_shared, v_shared = block.qkv(x_stem)  # [B, H, P, W/H]
        if index < len(pool):
            prompts = gather_prompts(pool[index], static[index], retrieved[:, index])
            k_prompts, v_prompts = block.split_keys_values(prompts)
            k_shared = torch.cat([k_shared, k_prompts], 2)  # [B, H, S, W/H]
            v_shared = torch.cat([v_shared, v_prompts], 2)
        if index < last:
            q_own, k_own, v_own = block.qkv(x_own)
            x_stem = block.finish(x_stem, attend_stem(q_stem, k_shared, v_shared))
            x_own = block.finish(x_own, attend_own(q_own, k_own, v_own, k_shared, v_shared, causal, C))
        else:
            k_own, v_own = block.split_keys_values(block.keys_values(x_own))
            x_eot = take_last(x_own.reshape(B, C, T, W), lengths)  # [B, C, W]
            attended = attend_own(block.query(x_eot), k_own, v_own, k_shared, v_shared, up_to_eot, C)
            x_own = block.finish(x_eot, attended)
    return unit(wide(tower.project(layer_norm(tower.ln_final, x_own))))  # [B, C, D]


def additive(visible: Tensor, like: Tensor) -> Tensor:
    """0 where visible, MASKED elsewhere, in the dtype of `like`."""
    return (~visible).to(like.dtype) * MASKED


def gather_prompts(pool: Tensor, static: Tensor, retrieved: Tensor) -> Tensor:
    """Keys and values that one block sees. pool [N, p, 2 W], static [q, 2 W], retrieved [B, M] -> [B, M p + q, 2 W]"""
    N, p, kv = pool.shape
    chosen = F.embedding(retrieved, pool.reshape(N, p * kv))  # [B, M, p 2 W]
    chosen = chosen.reshape(retrieved.shape[0], retrieved.shape[1] * p, kv)  # [B, M p, 2 W]
    if static.shape[0] == 0:
        return chosen
    return torch.cat([chosen, static.expand(retrieved.shape[0], -1, -1)], 1)


def attend_stem(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The stem among itself and the prompts. q [B, H, P, d]; k, v [B, H, S, d], stem first, prompts after -> [B, P, W]

    SOS stands before the prompts and sees itself alone, so its state is the same for every image.
    """
    P, S = q.shape[2], k.shape[2]
    row, column = torch.arange(P, device=q.device)[:, None], torch.arange(S, device=q.device)[None, :]
    mask = additive((column <= row) | ((column >= P) & (row > 0)), q)  # [P, S]
    return merge_heads(softmax(q @ k.transpose(-1, -2) + mask) @ v)


def attend_own(
    q: Tensor, k: Tensor, v: Tensor, k_shared: Tensor, v_shared: Tensor, mask: Tensor, classes: int
) -> Tensor:
    """Own tokens among the shared keys, all of which they see, and those of their class that `mask` lets through.

    q [B, H, C Q, d]; k, v [B, H, C T, d]; k_shared, v_shared [B, H, S, d]; mask [Q, T] or [C, 1, T] -> [B, C Q, W]
    """
    B, H, rows, d = q.shape
    C, S = classes, k_shared.shape[2]
    T = k.shape[2] // C
    q_class, k_class, v_class = (x.reshape(B, H, C, -1, d) for x in (q, k, v))
    shared = (q @ k_shared.transpose(-1, -2)).reshape(B, H, C, -1, S)  # [B, H, C, Q, S]
    own = q_class @ k_class.transpose(-1, -2) + mask  # [B, H, C, Q, T]
    shared, own = torch.split(softmax(torch.cat([shared, own], -1)), [S, T], -1)
    attended = shared.reshape(B, H, rows, S) @ v_shared + (own @ v_class).reshape(B, H, rows, d)
    return merge_heads(attended)


def take_last(x: Tensor, lengths: Tensor) -> Tensor:
    """The EOT of each class. x [B, C, T, W], lengths [C] -> [B, C, W]"""
    B, C, _, W = x.shape
    index = (lengths.long() - 1).reshape(1, C, 1, 1).expand(B, C, 1, W)
    return x.gather(2, index).squeeze(2)
