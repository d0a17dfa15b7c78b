"""Small frozen models with the shapes of real ones: real widths and heads, few layers, random weights."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP

from attri.train.model.backbone import Backbone, freeze

SMALL = {
    "ViT-B-32": {"layers": 2},
    "ViT-B-16": {"layers": 3},
    "ViT-L-14": {"layers": 2},
    "ViT-B-32-quickgelu": {"layers": 2},
    "CustomTextCLIP": {"layers": 2},
}


# The smallest of each family of image towers, and what makes it small: arguments of timm, or of open_clip's config.
FAMILIES: dict[str, dict[str, Any]] = {
    "EVA02-B-16": {"depth": 2, "img_size": 64},
    "PE-Core-T-16-384": {"depth": 3, "img_size": 96},
    "ViTamin-S": {"depth": 2, "img_size": 96},
    "MobileCLIP-B": {"depth": 2, "img_size": 64},
    "vit_medium_patch16_gap_256": {"depth": 2, "img_size": 64},
    "vit_relpos_medium_patch16_cls_224": {"depth": 2, "img_size": 64},
    "convnext_tiny": {"depths": (1, 1, 1, 2), "img_size": 128},
    "convnext_tiny_d": {"depths": (1, 1, 1, 2), "img_size": 128},
    "RN50": {"layers": [1, 1, 1, 2], "img_size": 128},
    "swin_base_patch4_window7_224": {"depths": (1, 1, 1, 2), "img_size": 224},
}


def vision_tower(width: int, config: dict[str, Any], quick_gelu: bool = False) -> torch.nn.Module:
    """The image tower of a config of open_clip, beside a text tower of next to nothing."""
    return CLIP(width, config, {"layers": 1, "width": 64, "heads": 1}, quick_gelu).visual


@functools.cache
def small_tower(name: str, double: bool = False) -> Backbone:
    """A seeded random model of that family: real widths, a small image tower, and 4 text blocks."""
    of_timm = dict(FAMILIES[name])
    config = open_clip.get_model_config(name.removesuffix("_d"))
    if name.endswith("_d"):
        config["vision_cfg"] |= {"timm_proj": "mlp"}  # as in convnext_large_d
    config["vision_cfg"] |= {"image_size": of_timm["img_size"]}
    if "layers" in of_timm:
        config["vision_cfg"] |= {"layers": of_timm.pop("layers")}
    if "convnext" in name:  # takes images of any size
        del of_timm["img_size"]
    config["text_cfg"] |= {"layers": 4}
    torch.manual_seed(0)
    custom = config.pop("custom_text", False)
    with mock.patch("open_clip.timm_model.timm.create_model", functools.partial(timm.create_model, **of_timm)):
        clip = (CustomTextCLIP if custom else CLIP)(**config)
    head = getattr(getattr(clip.visual, "trunk", None), "head", None)
    if isinstance(head, torch.nn.Linear):  # Eva's starts at a thousandth, and every image would be its bias
        torch.nn.init.normal_(head.weight, std=head.in_features**-0.5)
    return frozen(clip, name, double)


@functools.cache
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


def frozen(clip: torch.nn.Module, name: str, double: bool) -> Backbone:
    """Biases and norms that are 0 and 1 would hide mistakes."""
    for parameter in clip.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.05
    for module in clip.modules():  # as in ResNets
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += torch.randn_like(module.running_mean) * 0.05
            module.running_var *= 1 + torch.rand_like(module.running_var) * 0.2
    backbone = freeze(clip, name, "random")
    if double:
        backbone.clip.double()
    return backbone
