"""Hugging Face's CLIPModel as open_clip's CLIP: the same architecture under other names.

A folder as `CLIPModel.save_pretrained` writes it: config.json, model.safetensors (or its shards and their index), and
preprocessor_config.json of the image processor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attri.runtime.errors import FailedError, UsageError

RESAMPLING = {2: "bilinear", 3: "bicubic"}  # of Pillow's numbers
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "quick_gelu": {},
    "gelu": {},
    "gelu_pytorch_tanh": {"act_kwargs": {"approximate": "tanh"}},
    "gelu_new": {"act_kwargs": {"approximate": "tanh"}},
}
# What config.json leaves out where it is as in CLIPTextConfig and CLIPVisionConfig.
BOTH = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
TEXT = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, **BOTH}
TEXT |= {"max_position_embeddings": 77}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, **BOTH}
VISION |= {"image_size": 224, "patch_size": 32}
# Parts of a key: theirs, and open_clip's. The order matters: the towers come first.
NAMES = [
    (r"^text_model\.embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # so they spell it
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
]
TRANSPOSED = ("text_projection", "visual.proj")  # theirs are layers, open_clip's are matrices


def model_type(folder: Path) -> str | None:
    """What Hugging Face calls the kind of model in a folder; None for a folder of open_clip's, or of neither.

    Raises:
        UsageError: its config cannot be read.
    """
    if not (folder / "config.json").is_file() or (folder / "open_clip_config.json").is_file():
        return None
    return str(read_json(folder / "config.json").get("model_type") or "model")


def config_of(folder: Path) -> dict[str, Any]:
    """Translate config.json into open_clip's config.

    Raises:
        UsageError: it has an activation that open_clip does not have.
    """
    theirs = read_json(folder / "config.json")
    text, vision = TEXT | theirs.get("text_config", {}), VISION | theirs.get("vision_config", {})
    acts = [part["hidden_act"] for part in (text, vision)]
    if any(act not in ACTIVATIONS for act in acts) or (acts[0] == "quick_gelu") != (acts[1] == "quick_gelu"):
        raise UsageError(f"{folder} has the activations {' and '.join(acts)}, which open_clip cannot compute")
    return {
        "embed_dim": theirs.get("projection_dim", 512),
        "quick_gelu": acts[0] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            **_tower(vision),
        },
        "text_cfg": text_of(text),
    }


def text_of(text: dict[str, Any]) -> dict[str, Any]:
    """Translate the config of a text tower."""
    return {
        "context_length": text["max_position_embeddings"],
        "vocab_size": text["vocab_size"],
        "heads": text["num_attention_heads"],
        **_tower(text),
    }


def _tower(part: dict[str, Any]) -> dict[str, Any]:
    """What both towers have."""
    return {
        "width": part["hidden_size"],
        "layers": part["num_hidden_layers"],
        "mlp_ratio": part["intermediate_size"] / part["hidden_size"],
        "norm_kwargs": {"eps": part["layer_norm_eps"]},
        **ACTIVATIONS[part["hidden_act"]],
    }


def preprocess_of(folder: Path, default: dict[str, Any] | None = None, crops: bool = True) -> dict[str, Any]:
    """Translate preprocessor_config.json into open_clip's `preprocess_cfg`.

    Args:
        folder: of the model.
        default: what the file says where there is none; None gives an empty result.
        crops: whether images are cropped to a square where the file does not say.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file() and default is None:
        return {}
    theirs = (default or {}) | (read_json(file) if file.is_file() else {})
    resample = theirs.get("resample", 3)
    return {
        "mean": theirs["image_mean"],
        "std": theirs["image_std"],
        "resize_mode": "shortest" if theirs.get("do_center_crop", crops) else "squash",
        "interpolation": RESAMPLING.get(resample, f"Pillow's filter {resample}"),
    }


def load(folder: Path) -> nn.Module:
    """Build open_clip's CLIP with the weights of a CLIPModel.

    Raises:
        UsageError: see `config_of`.
        FailedError: the weights cannot be read, or are not those of the config.
    """
    from open_clip.model import CLIP

    clip: Any = CLIP(**config_of(folder))
    try:
        clip.load_state_dict(rename(dict(tensors(folder))))
    except Exception as error:  # what wrong files make of safetensors and torch has no common kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FailedError(f"the weights in {folder} do not load: {reason}") from error
    clip.visual.preprocess_cfg = preprocess_of(folder)
    return clip  # type: ignore[no-any-return]


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Read all tensors of model.safetensors or its shards.

    Raises:
        FailedError: there is neither.
    """
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    files = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in files:
        if "/" in name or not (folder / name).is_file():
            raise FailedError(f"there is no {name} (of pickled weights, save a copy with safe_serialization=True)")
        yield from load_file(folder / name).items()


def rename(theirs: dict[str, Tensor], names: Sequence[tuple[str, str]] = NAMES) -> dict[str, Tensor]:
    """Translate a state dict by parts of its keys; queries, keys and values are stacked."""
    ours: dict[str, Tensor] = {}
    for key, value in theirs.items():
        if key.endswith("position_ids"):  # counted, not learned; older versions saved them
            continue
        for theirs_part, ours_part in names:
            key = re.sub(theirs_part, ours_part, key)
        ours[key] = value.T.contiguous() if key in TRANSPOSED else value
    for key in [key for key in ours if ".attn.q_proj." in key]:
        parts = [ours.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        ours[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return ours


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UsageError: the file is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no JSON object")
    return content
