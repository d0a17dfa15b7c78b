"""All models of open_clip: what they cost, the licences of their weights, and whether attri takes them.

Nothing is built and nothing is fetched: operations of image towers were counted once (tools/backbones.py).
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attri.train.model.attriprompt import LAST_BLOCKS
from attri.train.model.foldable import refusal
from attri.train.model.towers import family_of

COSTS = Path(__file__).with_name("backbones.json")
LABEL_TOKENS = 4  # of a label's own: two words, the full stop and EOT
# By where open_clip gets the weights from, and by tag; the first that fits. Only what was looked up.
LICENCES = (
    ("*", "openai", "MIT"),
    ("*", "metaclip*", "CC BY-NC 4.0, not for commercial use"),
    ("*", "dfn*", "apple-amlr, research only"),
    ("apple/*", "*", "apple-amlr, research only"),
    ("timm/*mobileclip*", "*", "apple-amlr, research only"),
    ("timm/*PE-Core*", "*", "Apache-2.0"),
    ("timm/*SigLIP*", "*", "Apache-2.0"),
    ("timm/eva*", "*", "MIT"),
    ("jienengchen/*", "*", "MIT"),
    ("laion/*", "*", "MIT"),
)


@dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
        name: open_clip's.
        family: the module that defines its image tower.
        size: side of the images, pixels.
        vision: GFLOP of an image, or None where it was not counted.
        label: GFLOP of a label for an image, or None for a text tower of Hugging Face.
        once: GFLOP of a label when it is set, before any image.
        tags: of its weights, each with its licence, or "" where that is not known.
        refusal: why attri does not take it, or None.
    """

    name: str
    family: str
    size: int
    vision: float | None
    label: float | None
    once: float
    tags: dict[str, str]
    refusal: str | None

    def lines(self) -> str:
        """Say all of it, for a terminal."""
        vision, label = number(self.vision), number(self.label)
        status = f"not supported: {self.refusal}" if self.refusal else "supported"
        once = f" and {number(self.once)} once" if self.once else ""
        head = f"{self.name}  {self.size} px, {vision} GFLOP an image, {label} a label{once}, {status}"
        return "\n".join([head, *(f"    {tag}" + f" ({text})" * bool(text) for tag, text in self.tags.items())])


def number(gflop: float | None) -> str:
    """An amount of work, rounded; ? where it is not known."""
    return (
        "?" if gflop is None else f"{gflop:.0f}" if gflop >= 100 else f"{gflop:.2g}" if gflop < 10 else f"{gflop:.1f}"
    )


def entries(word: str = "") -> list[Entry]:
    """List open_clip's models whose name or tags hold a word, whatever its case."""
    import open_clip

    costs = json.loads(COSTS.read_text(encoding="utf-8"))
    found = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        tags = {tag: licence(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
        if word.lower() not in " ".join([name, *tags]).lower():
            continue
        cost = costs.get(name, {})
        size = cost.get("size", config["vision_cfg"].get("image_size", 224))
        family = family_of(config["vision_cfg"])
        label, once = label_cost(config)
        found.append(Entry(name, family, size, cost.get("vision"), label, once, tags, refusal(config)))
    return found


def licence(name: str, tag: str) -> str:
    """The licence of open_clip's weights, or "" where it is not known, or they are not open_clip's."""
    import open_clip

    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        return ""
    place = config.get("hf_hub") or config.get("url", "")
    fits = (text for places, tags, text in LICENCES if fnmatch.fnmatch(place, places) and fnmatch.fnmatch(tag, tags))
    return next(fits, "")


def label_cost(config: dict[str, Any]) -> tuple[float | None, float]:
    """GFLOP of a label for an image, and once when it is set: the products of its tokens with the weights of blocks.

    Attention itself, over a few dozen keys, is less than 2% of it and not counted. A causal tower computes a label's
    own tokens in all blocks. One that is not computes all tokens: those before the first of its `LAST_BLOCKS` once, and
    of its last block keys and values alone.
    """
    text = config["text_cfg"]
    if text.get("hf_model_name"):
        return None, 0.0
    layers, width, ratio = text.get("layers", 12), text.get("width", 512), text.get("mlp_ratio", 4.0)
    block, keys_values = 2 * (4 + 2 * ratio) * width**2 / 1e9, 2 * 2 * width**2 / 1e9  # of a token
    if not text.get("no_causal_mask"):
        return float(LABEL_TOKENS * layers * block), 0.0
    tokens = text.get("context_length", 77)
    return float(tokens * ((LAST_BLOCKS - 1) * block + keys_values)), float(tokens * (layers - LAST_BLOCKS) * block)
