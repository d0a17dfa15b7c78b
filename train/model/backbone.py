"""Load and freeze an open_clip model (by tag, from a file, or the embedded pocket) and check that it can be folded."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from attri.runtime.bundle import Pooled
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.preprocess import INTERPOLATIONS, RESIZES, Preprocess
from attri.runtime.text.reader import TextReader
from attri.runtime.text.tokenizer_file import FileTokenizer
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import has_own_weights
from attri.train.model import hugging_face, hugging_face_siglip
from attri.train.model.foldable import check_config, check_foldable, pool_type
from attri.train.model.open_clip_types import CLIP, TextTransformer
from attri.train.model.prompted_text import TextTower
from attri.train.model.towers import ImageTower, image_tower
from attri.train.model.vocabulary import own_tokenizer

HUGGING_FACE: dict[str, Any] = {"clip": hugging_face, "siglip": hugging_face_siglip}  # readers of folders, by kind
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
        name: open_clip model name, "pocket", or `local-dir:` or `hf-hub:` and where it is.
        tag: open_clip tag, weights file, "embedded", "own" or "random".
        sha256: hash of all tensors, whatever file they came from.
        tower: the image tower in parts; its weights are those of `clip`.
        tokenizer: CLIP's, or the model's own.
    """

    clip: CLIP
    name: str
    tag: str
    sha256: str
    tower: ImageTower
    tokenizer: Tokenizer | FileTokenizer

    @property
    def public_name(self) -> str:
        """The name without the path on this machine: of a folder its last part."""
        scheme, _, place = self.name.partition(":")
        return f"{scheme}:{Path(place).resolve().name}" if scheme == "local-dir" else self.name

    @property
    def file_name(self) -> str:
        """The public name without what has a meaning in paths."""
        return re.sub(r"[^\w.+-]+", "-", self.public_name)

    @property
    def text(self) -> TextTransformer:
        """The module that holds the text tower's parts: the model itself, or its `text` in a CustomTextCLIP."""
        return cast(TextTransformer, getattr(self.clip, "text", self.clip))

    @property
    def token_embedding(self) -> Tensor:
        """The token embedding table."""
        return self.text.token_embedding.weight  # [V, W]

    @property
    def context_length(self) -> int:
        """Most tokens of a text, SOS and EOT included."""
        return self.text.positional_embedding.shape[0]

    @property
    def reader(self) -> TextReader:
        """How the model reads text."""
        pooled: Pooled = "last" if pool_type(self.clip) == "last" else "eot"
        return TextReader(self.tokenizer, self.context_length, self.text_tower().causal, pooled)

    @property
    def joint_width(self) -> int:
        """D, width of the joint space."""
        return self.tower.joint_width

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine: exp of the learned logit scale."""
        return float(self.clip.logit_scale.detach().double().exp())

    @property
    def logit_bias(self) -> float:
        """What is added to the scaled cosine, 0 for models without one; sigmoid scores depend on it."""
        bias = getattr(self.clip, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach().double())

    def release_image_tower(self) -> None:
        """Free the memory of the image tower, which cannot encode images any more; texts it can."""
        for tensor in (*self.clip.visual.parameters(), *self.clip.visual.buffers()):
            tensor.data = tensor.data.new_empty(0)

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
    """Load a model by its name and its weights; "pocket" is embedded and needs no network.

    Args:
        name: an open_clip model name, or "pocket"; or a model that brings its own weights: `local-dir:FOLDER` as
            open_clip or Hugging Face's `CLIPModel` or `SiglipModel` writes it, or `hf-hub:OWNER/NAME`.
        pretrained: for an open_clip name a tag, a local weights file, or None for random weights; else None.
            A tag brings its activation; a file is read into the activation of `name`: OpenAI's want NAME-quickgelu.

    Raises:
        UsageError: an unknown model or tag, or a model that cannot be folded, with the reason.
        FailedError: the weights cannot be read.
    """
    if pretrained and has_own_weights(name):
        raise UsageError(f"{name} has its own weights: leave out `pretrained`")
    if name == "pocket":
        from attri.train import pocket

        return freeze(pocket.load(), name, "embedded")
    if has_own_weights(name):
        clip, tokenizer = _load_own(name)
        return freeze(clip, name, "own", tokenizer)
    pretrained = None if pretrained is None else str(pretrained)
    clip, tokenizer = _load_named(name, pretrained)
    return freeze(clip, name, pretrained or "random", tokenizer)


def _load_own(name: str) -> tuple[nn.Module, FileTokenizer | None]:
    """A model from a folder, or from Hugging Face's hub, and the tokenizer of its own vocabulary."""
    scheme, _, place = name.partition(":")
    folder = Path(place)
    if scheme == "local-dir":
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
        if (kind := hugging_face.model_type(folder)) is not None:
            if kind not in HUGGING_FACE:
                raise UsageError(f"{folder} holds a {kind} of Hugging Face, no CLIPModel or SiglipModel")
            config = HUGGING_FACE[kind].config_of(folder)
            check_config(folder.name, config)
            return HUGGING_FACE[kind].load(folder), own_tokenizer(config["text_cfg"], folder)
        if not (folder / "open_clip_config.json").is_file():
            raise UsageError(
                f"{folder} holds no model: neither open_clip_config.json nor config.json of a CLIPModel or SiglipModel"
            )
    import open_clip

    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # what the network and a wrong file make of it has no common kind
        raise FailedError(f"the config of {name} cannot be read: {_first_line(error)}") from error
    check_config(folder.name, config)
    tokenizer = own_tokenizer(config["text_cfg"], folder if scheme == "local-dir" else None)
    return _create(name, None, require_pretrained=True), tokenizer


def _load_named(name: str, pretrained: str | None) -> tuple[nn.Module, FileTokenizer | None]:
    """One of open_clip's models, and the tokenizer of its own vocabulary."""
    import open_clip

    if name not in open_clip.list_models():
        raise UsageError(f"unknown model {name!r}: open_clip knows {_near(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and not Path(pretrained).exists() and pretrained not in tags:
        raise UsageError(f"{pretrained!r} is neither a file nor weights of {name}: it has {', '.join(tags) or 'none'}")
    config = open_clip.get_model_config(name) or {}
    check_config(name, config)
    tokenizer = own_tokenizer(config["text_cfg"])
    # Weights that were trained with QuickGELU are only warned about by open_clip; a file does not say how it was.
    quick = bool(pretrained and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
    return _create(name, pretrained, force_quick_gelu=quick), tokenizer


def _create(name: str, pretrained: str | None, **options: bool) -> nn.Module:
    """What open_clip makes of a name.

    Raises:
        FailedError: the weights cannot be had, or do not fit.
    """
    import open_clip

    try:
        model = open_clip.create_model(name, pretrained=pretrained, precision="fp32", weights_only=True, **options)
    except Exception as error:  # what a wrong file makes of torch and open_clip has no common kind
        weights = repr(pretrained) if pretrained else "that come with it"
        raise FailedError(f"the weights {weights} do not load into {name}: {_first_line(error)}") from error
    return cast(nn.Module, model)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def freeze(clip: nn.Module, name: str, tag: str, tokenizer: FileTokenizer | None = None) -> Backbone:
    """Freeze a model in memory and check that it can be folded.

    Args:
        clip: a model of open_clip.
        name: of the model.
        tag: of its weights.
        tokenizer: of its own vocabulary; None is CLIP's.

    Raises:
        UsageError: it cannot, with the reason.
    """
    check_foldable(clip, name, tokenizer)
    clip = clip.float().eval().requires_grad_(False)
    model = cast(CLIP, clip)
    width = TextTower(cast(TextTransformer, getattr(model, "text", model))).joint_width
    return Backbone(
        model, name, tag, weights_hash(clip), image_tower(model.visual, width, name), tokenizer or Tokenizer()
    )


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
