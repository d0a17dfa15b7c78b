"""Image towers by one interface (`ImageTower`), and which class of it runs which module of open_clip and timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from attri.runtime.errors import UsageError
from attri.train.model.towers.base import ImageTower
from attri.train.model.towers.clip_vit import ClipVit
from attri.train.model.towers.stages import ClipResNet, ConvNext, FastVit, Swin
from attri.train.model.towers.timm_vit import TimmVit

__all__ = ["FAMILIES", "ImageTower", "family_of", "image_tower"]

# By the module that defines the tower: of open_clip, or of timm's models.
FAMILIES: dict[str, Callable[[Any, int, str], ImageTower]] = {
    "open_clip.transformer": ClipVit,
    "open_clip.modified_resnet": ClipResNet,
    "timm.eva": TimmVit,
    "timm.vision_transformer": TimmVit,
    "timm.vision_transformer_hybrid": TimmVit,  # MobileCLIP-B: convolutions instead of a patch embedding
    "timm.vision_transformer_relpos": TimmVit,
    "timm.vitamin": TimmVit,  # of the same class as vision_transformer
    "timm.convnext": ConvNext,
    "timm.swin_transformer": Swin,
    "timm.fastvit": FastVit,
}


def family_of(vision: dict[str, Any]) -> str:
    """Name the module that defines the tower of an open_clip `vision_cfg`, whether or not it is in `FAMILIES`."""
    from timm.models import model_entrypoint

    if name := vision.get("timm_model_name"):
        return f"timm.{model_entrypoint(name).__module__.rpartition('.')[2]}"
    return "open_clip.modified_resnet" if isinstance(vision.get("layers"), list) else "open_clip.transformer"


def image_tower(visual: nn.Module, joint_width: int, name: str) -> ImageTower:
    """Wrap the image tower of a model.

    Args:
        visual: of an open_clip model.
        joint_width: D, of the model.
        name: of the model, for messages.

    Raises:
        UsageError: no class here runs it exactly; with the model's name and the reason.
    """
    tower: Any = visual
    of_timm = type(visual).__name__ == "TimmModel"
    module = type(tower.trunk if of_timm else tower).__module__
    family = f"timm.{module.rpartition('.')[2]}" if of_timm else module
    if family not in FAMILIES:
        raise UsageError(f"{name} is not supported: its image tower is of {module}, which attri cannot run in parts")
    return FAMILIES[family](tower, joint_width, name)
