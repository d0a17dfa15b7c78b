"""Static prompts, and no prompts, in the form that the graphs take: a pool, and which of its entries an image gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from attri.runtime.bundle import PROMPT_SHAPE
from attri.runtime.errors import UsageError
from attri.runtime.prompt import Selection
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import Backbone

__all__ = ["as_pool", "zero_shot_model"]


@torch.no_grad()
def as_pool(model: AttriPrompt) -> tuple[AttriPrompt, Selection]:
    """Rewrite a model whose tokens are all static as one with a pool of which every image gets all entries.

    Exact, because prompts enter attention as keys and values alone, whose order does not matter. Where the tokens fit
    the shape that the config has for a pool, its graphs are those of a learned pool: such prompts share a base.

    Args:
        model: a trained prompt; one with a pool is returned as it is.

    Returns:
        The model, and "nearest" or "all".
    """
    config = model.config
    if config.pool_size:
        return model, "nearest"
    entries, rest = divmod(config.static_tokens, config.prompt_length)
    if rest or not config.topk <= entries <= config.clusters * config.topk:
        config = dataclasses.replace(config, clusters=1, topk=1, prompt_length=config.static_tokens)
        entries = 1
    pooled = AttriPrompt(model.backbone, dataclasses.replace(config, pool_size=entries, static_tokens=0, shared=False))
    pooled.pool.keys.zero_()
    pooled.pool.tokens.copy_(model.pool.static.reshape(pooled.pool.tokens.shape))
    return pooled.eval(), "all"


@torch.no_grad()
def zero_shot_model(backbone: Backbone, shape: Mapping[str, Any] | None = None) -> AttriPrompt:
    """Plain CLIP as a model with a pool whose entries no image gets (selection "none").

    Args:
        backbone: the frozen CLIP.
        shape: of the prompts of a base, `Manifest.retrieval`; None is the default, which learned prompts have too.

    Raises:
        UsageError: the base has static tokens.
    """
    given = {} if shape is None else {name: shape[name] for name in PROMPT_SHAPE}
    if given.get("static_tokens"):
        raise UsageError("graphs with static tokens give them to every image, and cannot be plain CLIP")
    model = AttriPrompt(backbone, PromptConfig(pool_size=given.get("topk", PromptConfig.topk), **given))
    model.pool.keys.zero_()
    model.pool.tokens.zero_()
    return model.eval()
