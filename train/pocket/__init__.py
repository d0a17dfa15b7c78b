"""The pocket backbone: a small CLIP and images that come with attri. See README.md beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from torch import Tensor

MODEL = "pocket"
CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 192, "layers": 6, "head_width": 64},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 6},
}
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own
STD = (0.26862954, 0.26130258, 0.27577711)

_HERE = Path(__file__).parent
IMAGES = _HERE / "images" / "twemoji"
OTHER_STYLE = _HERE / "images" / "openmoji" / "test"


def weights() -> Path:
    """Return the file of the trained tensors."""
    return _HERE / "weights.safetensors"


def build(vocabulary: int = CONFIG["text_cfg"]["vocab_size"]) -> "CLIP":
    """Build an untrained model; `vocabulary` is the number of token rows."""
    from open_clip.model import CLIP

    return CLIP(CONFIG["embed_dim"], CONFIG["vision_cfg"], CONFIG["text_cfg"] | {"vocab_size": vocabulary})


def load(file: str | Path | None = None) -> "CLIP":
    """Load the trained model, float32, in eval mode. Rows of tokens that training never saw are zeros.

    file: weights to load instead of those that come with attri, as tools/pocket writes them.
    """
    import torch
    from safetensors.torch import load_file

    packed = load_file(file or weights())
    ids = packed.pop("token_ids").long()  # [V']
    tensors = {name: _unpack(packed, name) for name in packed if not name.endswith(":scale")}
    rows = tensors["token_embedding.weight"]  # [V', W]
    embedding = torch.zeros(CONFIG["text_cfg"]["vocab_size"], rows.shape[1])
    tensors["token_embedding.weight"] = embedding.index_copy(0, ids, rows)
    model = build()
    model.load_state_dict(tensors)
    return model.eval()


def _unpack(packed: dict[str, "Tensor"], name: str) -> "Tensor":
    """Matrices are kept as int8 with one scale per row."""
    tensor, scale = packed[name].float(), packed.get(f"{name}:scale")
    return tensor if scale is None else (tensor.flatten(1) * scale).view_as(tensor)
