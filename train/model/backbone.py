"""Load and freeze an open_clip model (by tag, from a file, or the embedded pocket) and check that it can be folded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from attri.runtime.errors import FailedError, UsageError
from attri.runtime.preprocess import Preprocess
from attri.train.model.open_clip_types import CLIP, TextTransformer, VisionTransformer
from attri.train.model.prompted_text import TextTower

VOCABULARY = 49408  # CLIP's byte-pair encoding, the one that the runtime speaks


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP and its identity.

    Attributes:
        clip: the open_clip module, float32, eval mode, no gradients.
        name: open_clip model name, or "pocket".
        tag: open_clip tag, weights file, "embedded" or "random".
        sha256: hash of all tensors, whatever file they came from.
    """

    clip: CLIP
    name: str
    tag: str
    sha256: str

    @property
    def visual(self) -> VisionTransformer:
        """The image tower."""
        return self.clip.visual

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
        return self.visual.proj.shape[1]

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine: exp of the learned logit scale."""
        return float(self.clip.logit_scale.detach().double().exp())

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.visual.grid_size

    def text_tower(self) -> TextTower:
        """Return the parts of the text tower that the folded encoder uses."""
        return TextTower(self.text)

    def preprocess(self) -> Preprocess:
        """Return the preprocessing that this model was trained with.

        Raises:
            UsageError: the model needs another resize than CLIP's.
        """
        cfg = getattr(self.visual, "preprocess_cfg", None) or {}
        if cfg.get("interpolation", "bicubic") != "bicubic" or cfg.get("resize_mode", "shortest") != "shortest":
            raise UsageError(f"{self.name} wants {cfg['interpolation']}/{cfg['resize_mode']} resizing: not supported")
        height, width = self.visual.image_size
        if height != width:
            raise UsageError(f"{self.name} takes {height} x {width} images: only square ones are supported")
        mean = tuple(cfg.get("mean", (0.48145466, 0.4578275, 0.40821073)))
        std = tuple(cfg.get("std", (0.26862954, 0.26130258, 0.27577711)))
        return Preprocess(height, mean, std)


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
    return Backbone(cast(CLIP, clip), name, tag, weights_hash(clip))


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of names, shapes and values, which does not depend on the file that held them."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_config(name: str, config: dict[str, Any]) -> None:
    """Check by its config that a model can be folded, before any weight is made or fetched.

    Raises:
        UsageError: the tower is not a plain open_clip ViT with a causal CLIP text tower.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    if text.get("hf_model_name"):
        raise UsageError(f"{name} cannot be folded: its text tower is a Hugging Face model, not a causal CLIP tower")
    if vision.get("timm_model_name") or isinstance(vision.get("layers"), list):
        raise UsageError(f"{name} is not supported: its image tower is not a ViT of open_clip")
    if config.get("multimodal_cfg") or text.get("embed_cls"):
        raise UsageError(f"{name} cannot be folded: it reads a class token after the words (CoCa), not EOT")
    if vision.get("attentional_pool"):
        raise UsageError(f"{name} is not supported: its image tower pools by attention")
    if (vocabulary := text.get("vocab_size", VOCABULARY)) != VOCABULARY:
        raise UsageError(f"{name} is not supported: its vocabulary has {vocabulary} tokens, CLIP's has {VOCABULARY}")
    if text.get("no_causal_mask"):
        raise UsageError(f"{name} cannot be folded: its text tower is not causal, so labels would change prompts")


def check_foldable(clip: nn.Module, name: str) -> None:
    """Check that the folded encoder computes this model exactly.

    Raises:
        UsageError: with the model's name and the reason.
    """
    from open_clip import transformer

    visual: Any = clip.visual
    text: Any = getattr(clip, "text", clip)
    if not isinstance(visual, transformer.VisionTransformer):
        raise UsageError(f"{name} is not supported: its image tower is not a ViT of open_clip")
    if getattr(text, "attn_mask", None) is None:
        raise UsageError(f"{name} cannot be folded: its text tower is not causal, so labels would change prompts")
    if getattr(text, "cls_emb", None) is not None:
        raise UsageError(f"{name} cannot be folded: it reads a class token after the words (CoCa), not EOT")
    if getattr(text, "pool_type", getattr(clip, "text_pool_type", "argmax")) not in ("argmax", "eos"):
        raise UsageError(f"{name} cannot be folded: its text feature is not read at EOT")
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise UsageError(f"{name} is not supported: its image tower pools by attention")
    if visual.proj is None or not isinstance(visual.patch_dropout, nn.Identity):
        raise UsageError(f"{name} is not supported: its image tower has no plain projection or drops patches")
    blocks = [*visual.transformer.resblocks, *text.transformer.resblocks]
    if not all(type(block) is transformer.ResidualAttentionBlock for block in blocks):
        raise UsageError(f"{name} is not supported: its blocks are not CLIP's (custom attention)")
    vocabulary = text.token_embedding.weight.shape[0]
    if vocabulary != VOCABULARY:
        raise UsageError(f"{name} is not supported: its vocabulary has {vocabulary} tokens, CLIP's has {VOCABULARY}")


def _near(name: str, known: list[str]) -> str:
    import difflib

    return ", ".join(difflib.get_close_matches(name, known, 3, 0.4) or known[:3]) + ", ... and pocket"
