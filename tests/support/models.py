"""Small frozen models with the parts of real ones, and random weights."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP
from support.vocabulary import small_vocabulary

from attri.runtime.text.tokenizer_file import FileTokenizer
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import Backbone, freeze

SMALL = {
    "ViT-B-32": {"layers": 2},
    "ViT-B-16": {"layers": 3},
    "ViT-L-14": {"layers": 2},
    "ViT-B-32-quickgelu": {"layers": 2},
    "CustomTextCLIP": {"layers": 2},
}


# One of each family of image towers, and what makes it small: arguments of timm, or of open_clip's config.
VIT = {"depth": 2, "embed_dim": 64, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "EVA02-B-16": VIT | {"img_size": 64},
    "PE-Core-T-16-384": VIT | {"depth": 3, "img_size": 96},
    "ViTamin-S": {"depth": 2, "img_size": 96},
    "MobileCLIP-B": {"depth": 2, "img_size": 64},
    "vit_medium_patch16_gap_256": VIT | {"img_size": 64},
    "vit_relpos_medium_patch16_cls_224": VIT | {"img_size": 64},
    "convnext_tiny": {"depths": (1, 1, 1, 2), "dims": (8, 16, 32, 64), "img_size": 128},
    "convnext_tiny_d": {"depths": (1, 1, 1, 2), "dims": (8, 16, 32, 64), "img_size": 128},
    "RN50": {"layers": [1, 1, 1, 2], "width": 16, "img_size": 128},
    "swin_base_patch4_window7_224": {
        "depths": (1, 1, 1, 2),
        "embed_dim": 16,
        "num_heads": (1, 1, 2, 4),
        "img_size": 224,
    },
    "ViT-B-16-SigLIP": VIT | {"img_size": 64},
    "ViT-SO400M-16-SigLIP2-256": VIT | {"img_size": 64},
    "MobileCLIP2-L-14": VIT | {"img_size": 56},
    "MobileCLIP-S1": {"layers": (1, 1, 1, 2), "embed_dims": (16, 32, 64, 128), "img_size": 128},
    "MobileCLIP2-S3": {"layers": (1, 1, 1, 1, 2), "embed_dims": (8, 16, 32, 64, 128), "img_size": 256},
}
TEXT = {"layers": 4, "width": 64, "heads": 2}
# Of those whose text tower is not causal; CLIP's words need all of CLIP's vocabulary.
BIDIRECTIONAL: dict[str, dict[str, Any]] = {
    "ViT-B-16-SigLIP": {"vocab_size": 130, "context_length": 16},
    "ViT-SO400M-16-SigLIP2-256": {"vocab_size": 130, "context_length": 16},
    "MobileCLIP2-L-14": {"context_length": 20},
    "MobileCLIP-S1": {"context_length": 20},
    "MobileCLIP2-S3": {"context_length": 20},
}


def vision_tower(width: int, config: dict[str, Any], quick_gelu: bool = False) -> torch.nn.Module:
    """The image tower of a config of open_clip, beside a text tower of next to nothing."""
    return CLIP(width, config, {"layers": 1, "width": 64, "heads": 1}, quick_gelu).visual


@functools.lru_cache(maxsize=2)  # the embeddings of its 49,408 words alone are 100 MB
def small_tower(name: str, double: bool = False) -> Backbone:
    """A seeded random model of that family, small in all its parts, with 4 text blocks."""
    of_timm = dict(FAMILIES[name])
    config = open_clip.get_model_config(name.removesuffix("_d"))
    if name.endswith("_d"):
        config["vision_cfg"] |= {"timm_proj": "mlp"}  # as in convnext_large_d
    config["vision_cfg"] |= {"image_size": of_timm["img_size"]}
    if "RN" in name:
        config["vision_cfg"] |= {"layers": of_timm.pop("layers"), "width": of_timm.pop("width")}
    if "convnext" in name or "embed_dims" in of_timm:  # takes images of any size
        del of_timm["img_size"]
    config["text_cfg"] |= TEXT | BIDIRECTIONAL.get(name, {})
    config["embed_dim"] = 64
    tokenizer = small_vocabulary() if "vocab_size" in BIDIRECTIONAL.get(name, {}) else None
    torch.manual_seed(0)
    custom = config.pop("custom_text", False)
    with mock.patch("open_clip.timm_model.timm.create_model", functools.partial(timm.create_model, **of_timm)):
        clip = (CustomTextCLIP if custom else CLIP)(**config)
    head = getattr(getattr(clip.visual, "trunk", None), "head", None)
    if isinstance(head, torch.nn.Linear):  # Eva's starts at a thousandth, and every image would be its bias
        torch.nn.init.normal_(head.weight, std=head.in_features**-0.5)
    return frozen(clip, name, double, tokenizer)


def prompted_tower(name: str) -> AttriPrompt:
    """That model with strong random prompts, static ones too."""
    backbone = small_tower(name)
    torch.manual_seed(0)  # after it, which draws numbers only when it is made
    model = AttriPrompt(backbone, PromptConfig(pool_size=8, static_tokens=1)).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
        model.pool.static.normal_()
    return model


TINY_TOWER = {"width": 64, "layers": 2}
TINY = {
    "embed_dim": 32,
    "vision_cfg": TINY_TOWER | {"image_size": 32, "head_width": 32, "patch_size": 8},
    "text_cfg": TINY_TOWER | {"context_length": 24, "vocab_size": 49408, "heads": 2},
}


@functools.cache
def tiny_backbone(name: str = "CLIP") -> Backbone:
    """A seeded random model of two narrow blocks a tower: CLIP, its QuickGELU, or CustomTextCLIP."""
    torch.manual_seed(0)
    clip = CustomTextCLIP(**TINY) if name == "CustomTextCLIP" else CLIP(**TINY, quick_gelu=name == "QuickGELU")
    return frozen(clip, f"tiny {name}", False)


@functools.lru_cache(maxsize=4)
def small_backbone(name: str, double: bool = False, image_size: int = 128) -> Backbone:
    """A seeded random model of that shape with 2-3 vision and 2 text blocks, at a small image size."""
    custom = name == "CustomTextCLIP"
    config = open_clip.get_model_config("ViT-B-32" if custom else name)
    config["vision_cfg"] |= {
        "layers": SMALL[name]["layers"],
        "image_size": image_size - image_size % 14 * ("14" in name),
    }
    config["text_cfg"] |= {"layers": 2}
    torch.manual_seed(0)
    clip = (CustomTextCLIP if custom else CLIP)(**{k: v for k, v in config.items() if k != "custom_text"})
    return frozen(clip, name, double)


def frozen(clip: torch.nn.Module, name: str, double: bool, tokenizer: FileTokenizer | None = None) -> Backbone:
    """Biases and norms that are 0 and 1 would hide mistakes."""
    for parameter in clip.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.05
    for module in clip.modules():  # as in ResNets
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += torch.randn_like(module.running_mean) * 0.05
            module.running_var *= 1 + torch.rand_like(module.running_var) * 0.2
    backbone = freeze(clip, name, "random", tokenizer)
    if double:
        backbone.clip.double()
    return backbone
