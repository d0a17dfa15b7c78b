"""Which models the folded encoder computes exactly, and why it does not take the others."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from torch import nn

from attri.runtime.errors import UsageError
from attri.train.model.towers import FAMILIES, family_of

VOCABULARY = 49408  # CLIP's byte-pair encoding, the one that the runtime speaks


def refusal(config: dict[str, Any]) -> str | None:
    """Say why a model of this open_clip config is not taken, or None: it is. No weight is made or fetched."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if text.get("hf_model_name"):
        return "its text tower is a Hugging Face model, not CLIP's"
    if config.get("multimodal_cfg") or text.get("embed_cls"):
        return "it reads a class token after the words (CoCa), not EOT"
    if vision.get("attentional_pool"):
        return "its image tower pools by attention with several queries"
    if (family := family_of(vision)) not in FAMILIES:
        return f"its image tower is of {family}, which attri cannot run block by block"
    if (vocabulary := text.get("vocab_size", VOCABULARY)) != VOCABULARY:
        return f"its vocabulary has {vocabulary} tokens, and attri reads CLIP's, of {VOCABULARY}"
    if text.get("no_causal_mask"):
        return "its text tower is not causal, and attri folds causal ones so far"
    return None


@functools.cache
def supported_models() -> tuple[str, ...]:
    """List the names of open_clip's models that are taken."""
    import open_clip

    return tuple(name for name in open_clip.list_models() if not refusal(open_clip.get_model_config(name)))


def nearest_model(name: str, config: dict[str, Any]) -> str:
    """Name a model that is taken: of those with the same image tower, else of all, the one with the nearest name."""
    import open_clip

    def tower(config: dict[str, Any]) -> list[Any]:
        return [config["vision_cfg"].get(key) for key in ("timm_model_name", "layers", "width", "patch_size")]

    models = supported_models()
    alike = [model for model in models if tower(open_clip.get_model_config(model)) == tower(config)]
    return difflib.get_close_matches(name, alike or models, 1, 0)[0]


def check_config(name: str, config: dict[str, Any]) -> None:
    """Check by its config that a model is taken, before any weight is made or fetched.

    Raises:
        UsageError: with the model's name, the reason and a model that is taken.
    """
    if reason := refusal(config):
        raise UsageError(f"{name} is not supported: {reason}; the nearest that is: {nearest_model(name, config)}")


def check_foldable(clip: nn.Module, name: str) -> None:
    """Check that the folded encoder computes this text tower exactly.

    Raises:
        UsageError: with the model's name and the reason.
    """
    from open_clip.transformer import ResidualAttentionBlock

    text: Any = getattr(clip, "text", clip)
    if getattr(text, "attn_mask", None) is None:
        raise UsageError(f"{name} is not supported: its text tower is not causal, and attri folds causal ones so far")
    if getattr(text, "cls_emb", None) is not None:
        raise UsageError(f"{name} is not supported: it reads a class token after the words (CoCa), not EOT")
    if getattr(text, "pool_type", getattr(clip, "text_pool_type", "argmax")) not in ("argmax", "eos"):
        raise UsageError(f"{name} is not supported: its text feature is not read at EOT")
    if not all(type(block) is ResidualAttentionBlock for block in text.transformer.resblocks):
        raise UsageError(f"{name} is not supported: its text blocks are not CLIP's (custom attention)")
    vocabulary = text.token_embedding.weight.shape[0]
    if vocabulary != VOCABULARY:
        raise UsageError(f"{name} is not supported: its vocabulary has {vocabulary} tokens, CLIP's has {VOCABULARY}")
