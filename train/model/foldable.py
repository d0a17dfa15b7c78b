"""Which models the folded encoder computes exactly, and why it does not take the others."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from torch import nn

from attri.runtime.errors import UsageError
from attri.runtime.text.tokenizer_file import FileTokenizer
from attri.train.model.towers import FAMILIES, family_of
from attri.train.model.vocabulary import CLIP_VOCABULARY

# Tokens that the text feature may be read at, in open_clip's words, of towers that are causal and that are not.
POOLS = {True: ("argmax", "eos"), False: ("argmax", "last")}


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
    causal, pool = not text.get("no_causal_mask"), text.get("pool_type", "argmax")
    if (vocabulary := text.get("vocab_size", CLIP_VOCABULARY)) != CLIP_VOCABULARY:
        if causal:
            return f"its text tower is causal with a vocabulary of its own, of {vocabulary} tokens"
        if not text.get("hf_tokenizer_name") or text.get("tokenizer_mode"):
            return f"its vocabulary has {vocabulary} tokens, and no tokenizer file that attri can read"
    if pool not in POOLS[causal]:
        return f"its text feature is read at {pool!r}"
    return None


@functools.cache
def supported_models() -> tuple[str, ...]:
    """List the names of open_clip's models that are taken."""
    import open_clip

    return tuple(name for name in open_clip.list_models() if not refusal(open_clip.get_model_config(name)))


def nearest_model(name: str, config: dict[str, Any] | None = None) -> str:
    """Name a model that is taken: of those with the same image tower, else of all, the one with the nearest name.

    Args:
        name: of the model that is not.
        config: of open_clip; None is that of the name.
    """
    import open_clip

    def tower(config: dict[str, Any]) -> list[Any]:
        return [config["vision_cfg"].get(key) for key in ("timm_model_name", "layers", "width", "patch_size")]

    models = supported_models()
    config = open_clip.get_model_config(name) if config is None else config
    alike = [model for model in models if tower(open_clip.get_model_config(model)) == tower(config)]
    return difflib.get_close_matches(name, alike or models, 1, 0)[0]


def check_config(name: str, config: dict[str, Any]) -> None:
    """Check by its config that a model is taken, before any weight is made or fetched.

    Raises:
        UsageError: with the model's name, the reason and a model that is taken.
    """
    if reason := refusal(config):
        raise UsageError(f"{name} is not supported: {reason}; the nearest that is: {nearest_model(name, config)}")


def pool_type(clip: nn.Module) -> str:
    """Which token becomes the text feature, in open_clip's words."""
    text: Any = getattr(clip, "text", clip)
    return str(getattr(text, "pool_type", getattr(clip, "text_pool_type", "argmax")))


def check_foldable(clip: nn.Module, name: str, tokenizer: FileTokenizer | None = None) -> None:
    """Check that the folded encoder computes this text tower exactly.

    Args:
        clip: a model of open_clip.
        name: for messages.
        tokenizer: of its own vocabulary; None is CLIP's.

    Raises:
        UsageError: with the model's name and the reason.
    """
    from open_clip.transformer import ResidualAttentionBlock

    text: Any = getattr(clip, "text", clip)
    causal = getattr(text, "attn_mask", None) is not None
    reasons = {
        "it reads a class token after the words (CoCa), not EOT": getattr(text, "cls_emb", None) is not None,
        f"its text feature is read at {pool_type(clip)!r}": pool_type(clip) not in POOLS[causal],
        "its text blocks are not CLIP's (custom attention)": not all(
            type(block) is ResidualAttentionBlock for block in text.transformer.resblocks
        ),
        "its text tower is causal with a vocabulary of its own": causal and tokenizer is not None,
    }
    if reason := next((words for words, wrong in reasons.items() if wrong), None):
        raise UsageError(f"{name} is not supported: {reason}")
    vocabulary = text.token_embedding.weight.shape[0]
    if tokenizer is None and vocabulary != CLIP_VOCABULARY:
        raise UsageError(
            f"{name} is not supported: its vocabulary has {vocabulary} tokens, CLIP's has {CLIP_VOCABULARY}"
        )
    if tokenizer is not None and vocabulary < tokenizer.vocab_size:
        raise UsageError(
            f"{name} has a vocabulary of {vocabulary} tokens, and its tokenizer one of {tokenizer.vocab_size}"
        )
