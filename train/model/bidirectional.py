r"""The prompted text encoder of a tower that is not causal (SigLIP, MobileCLIP-S), folded.

Every token sees every other, padding too, so no prefix and no row is shared between labels, and all T tokens of a label
depend on the image from the first prompted block on. Two equalities remain:

* prompts that are replaced in every block enter attention as keys and values alone: a table, as in `prompted_text`;
* the blocks before the first prompted one see the label alone: their output is a constant of it (`label_states`).

So prompts are in the last blocks (their number is the depth; 2 by default, our choice). In the last block of all, only
the token that becomes the text feature is a query.

Shapes: B images, C classes, T tokens of the context length, W width, D joint width, L depth, p, q, M, N as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attri.train.model.blocks import BlockView, l2_normalize, layer_norm, upcast
from attri.train.model.open_clip_types import ResidualBlock
from attri.train.model.prompted_text import Shared, TextTower, attend_suffix, with_prompts


def label_states(tower: TextTower, tokens: Tensor, blocks: Sequence[ResidualBlock]) -> Tensor:
    """Run the blocks before the first prompted one. Embedded tokens [C, T, W] -> states [C, T, W]."""
    x = tokens + tower.positional_embedding
    for block in blocks:
        x = BlockView(block)(x)
    return x


def prompted_states(
    tower: TextTower,
    blocks: Sequence[ResidualBlock],
    pool: Tensor,
    static: Tensor,
    retrieved: Tensor,
    states: Tensor,
    pooled_rows: Tensor,
) -> Tensor:
    """Encode every class's prompt for every image, from its states.

    Args:
        tower: the frozen text tower.
        blocks: its last ones, from the first prompted one on.
        pool: key and value table of the pool [L, N, p, 2 W]; L is the number of `blocks`, or 0 for no prompts.
        static: key and value table of the static tokens [L, q, 2 W].
        retrieved: pool entries of each prompted block [B, L, M], integer; N is a masked placeholder.
        states: of `label_states` [C, T, W].
        pooled_rows: row of the token that becomes the text feature, among all C T [C], integer.

    Returns:
        Unit text features [B, C, D].
    """
    (C, T, W), B = states.shape, retrieved.shape[0]
    x = states.reshape(1, C * T, W)
    for index, module in enumerate(blocks):
        block = BlockView(module)
        k, v = block.split_keys_values(block.keys_values(x))  # [b, H, C T, d]
        none = k.new_zeros(B, block.heads, 0, k.shape[-1])
        prompts = Shared(none, none, x.new_zeros(B, 0))
        if index < len(pool):
            prompts = with_prompts(block, prompts, pool[index], static[index], retrieved[:, index])
        if index == len(blocks) - 1:
            x = x.index_select(1, pooled_rows.long())  # [b, C, W]
        x = block.finish(x, attend_suffix(block.query(x), k, v, prompts, None, C))  # [B, C T or C, W]
    return l2_normalize(upcast(tower.project(layer_norm(tower.ln_final, x))))  # [B, C, D]
