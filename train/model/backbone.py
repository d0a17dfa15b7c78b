"""Load and freeze an open_clip model (by tag, from a file, or the embedded pocket) and check that it can be folded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from attri.runtime.errors import FailedError, UsageError
from attri.runtime.preprocess import INTERPOLATIONS, RESIZES, Preprocess
from attri.train.model.foldable import check_config, check_foldable
from attri.train.model.open_clip_types import CLIP, TextTransformer
from attri.train.model.prompted_text import TextTower
from attri.train.model.towers import ImageTower, image_tower

CLIP_PREPROCESS = {  # where a model does not say
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "resize_mode": "shortest",
    "interpolation": "bicubic",
}


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP and its identity.

    Attributes:
        clip: the open_clip module, float32, eval mode, no gradients.
        name: open_clip model name, or "pocket".
        tag: open_clip tag, weights file, "embedded" or "random".
        sha256: hash of all tensors, whatever file they came from.
        tower: the image tower in parts; its weights are those of `clip`.
    """

    clip: CLIP
    name: str
    tag: str
    sha256: str
    tower: ImageTower

    @property
    def text(self) -> TextTransformer:
        """The module that holds the text tower's parts: the model itself, or its `text` in a CustomTextCLIP."""
        return cast(TextTransformer, getattr(self.clip, "text", self.clip))

    @property
    def token_embedding(self) -> Tensor:
        """The token embedding table."""
        return self.text.token_embedding.weight  # [49408, W]

    @property
    def context_length(self) -> int:
        """Most tokens of a text, SOS and EOT included."""
        return self.text.positional_embedding.shape[0]

    @property
    def joint_width(self) -> int:
        """D, width of the joint space."""
        return self.tower.joint_width

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine: exp of the learned logit scale."""
        return float(self.clip.logit_scale.detach().double().exp())

    def text_tower(self) -> TextTower:
        """Return the parts of the text tower that the folded encoder uses."""
        return TextTower(self.text)

    def preprocess(self) -> Preprocess:
        """Return the preprocessing that this model was trained with.

        Raises:
            UsageError: the model needs images that are resized in another way.
        """
        cfg = {**CLIP_PREPROCESS, **(getattr(self.clip.visual, "preprocess_cfg", None) or {})}
        resize, interpolation = cfg["resize_mode"], cfg["interpolation"]
        if resize not in RESIZES or interpolation not in INTERPOLATIONS:
            ways = f"{' or '.join(RESIZES)}, {' or '.join(INTERPOLATIONS)}"
            raise UsageError(f"{self.name} wants {interpolation}/{resize} resizing: attri has {ways}")
        return Preprocess(self.tower.size, tuple(cfg["mean"]), tuple(cfg["std"]), resize, interpolation)


def load_backbone(name: str = "pocket", pretrained: Path | str | None = None) -> Backbone:
    """Load a model by open_clip name and tag or weights file; "pocket" is embedded and needs no network.

    Args:
        name: an open_clip model name, or "pocket".
        pretrained: an open_clip tag, a local weights file, or None for random weights (the pocket's own when "pocket").
            A tag brings its activation; a file is read into the activation of `name`: OpenAI's want NAME-quickgelu.

    Raises:
        UsageError: an unknown model or tag, or a model that cannot be folded, with the reason.
        FailedError: the weights cannot be read.
    """
    if name == "pocket":
        from attri.train import pocket

        if pretrained:
            raise UsageError("the pocket model has its own weights: leave out `pretrained`")
        return freeze(pocket.load(), name, "embedded")
    import open_clip

    pretrained = None if pretrained is None else str(pretrained)
    if name not in open_clip.list_models():
        raise UsageError(f"unknown model {name!r}: open_clip knows {_near(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and not Path(pretrained).exists() and pretrained not in tags:
        raise UsageError(f"{pretrained!r} is neither a file nor weights of {name}: it has {', '.join(tags) or 'none'}")
    check_config(name, open_clip.get_model_config(name) or {})
    # Weights that were trained with QuickGELU are only warned about by open_clip; a file does not say how it was.
    quick = bool(pretrained and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
    try:
        clip = open_clip.create_model(
            name, pretrained=pretrained, precision="fp32", weights_only=True, force_quick_gelu=quick
        )
    except Exception as error:  # what a wrong file makes of torch and open_clip has no common kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FailedError(f"the weights {pretrained!r} do not load into {name}: {reason}") from error
    return freeze(clip, name, pretrained or "random")


def freeze(clip: nn.Module, name: str, tag: str) -> Backbone:
    """Freeze a model in memory and check that it can be folded.

    Raises:
        UsageError: it cannot, with the reason.
    """
    check_foldable(clip, name)
    clip = clip.float().eval().requires_grad_(False)
    model = cast(CLIP, clip)
    width = TextTower(cast(TextTransformer, getattr(model, "text", model))).joint_width
    return Backbone(model, name, tag, weights_hash(clip), image_tower(model.visual, width, name))


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of names, shapes and values, which does not depend on the file that held them."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _near(name: str, known: list[str]) -> str:
    import difflib

    return ", ".join(difflib.get_close_matches(name, known, 3, 0.4) or known[:3]) + ", ... and pocket"
