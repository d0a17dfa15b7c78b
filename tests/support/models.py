"""Small frozen models with the shapes of real ones: real widths and heads, few layers, random weights."""

from __future__ import annotations

import functools

import open_clip
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
    for parameter in clip.parameters():  # biases and norms that are 0 and 1 would hide mistakes
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.05
    backbone = freeze(clip, name, "random")
    if double:
        backbone.clip.double()
    return backbone
