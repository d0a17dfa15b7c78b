"""Reference images of a bundle: with them a device compares its engines with the PyTorch model.

`attri.runtime.engines.verify` reads the file and documents its arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.calibration.images import evenly
from attri.export.parity.outputs import run_model
from attri.runtime.bundle import REFERENCE, Bundle
from attri.runtime.engines.tensorrt.builder import CHECK_LABELS, TOKENS_PER_LABEL
from attri.runtime.labels import prompt
from attri.runtime.preprocess import Preprocess
from attri.runtime.text.padded_tokens import PaddedTokens
from attri.runtime.text.reader import TextReader
from attri.train.model import AttriPrompt

__all__ = ["IMAGES", "save_reference"]

IMAGES = 8  # so many that a gate allows for one flipped pool entry among them


def save_reference(model: AttriPrompt, unfinished: Bundle, pixels: NDArray[np.float32]) -> None:
    """Write reference.npz from a few of the parity images [I, 3, S, S]."""
    facts = unfinished.prompt.facts
    some = np.stack(evenly(list(pixels), IMAGES))
    reader = model.backbone.reader
    labels = _few_labels(reader, facts.labels, facts.template)
    reference = run_model(model, some, labels, facts.template)
    tokens = reader.encode(labels, facts.template)
    feed: dict[str, Any] = dict(unfinished.prompt.text_inputs)
    if isinstance(tokens, PaddedTokens):
        feed |= {"states": model.states(tokens).numpy(), "pooled_rows": tokens.pooled_rows}
    else:
        feed |= tokens.feed(unfinished.token_embedding())
    arrays: dict[str, Any] = {
        "pixels": _to_bytes(some, model.backbone.preprocess()),
        "image_features": reference.features,
        "retrieved": reference.retrieved,
        "text_features": reference.text,
        **{f"vision.{name}": value for name, value in unfinished.prompt.vision_inputs.items()},
        **{f"text.{name}": value for name, value in feed.items()},
    }
    if isinstance(tokens, PaddedTokens):
        arrays["label.ids"] = tokens.ids
    np.savez_compressed(unfinished.path / REFERENCE, **arrays)


def _few_labels(reader: TextReader, labels: Sequence[str], template: str) -> list[str]:
    """Choose as many labels, evenly, as every engine takes at once, by their number and their tokens."""
    some: list[str] = []
    tokens = 0
    for label in evenly(list(labels), CHECK_LABELS):
        tokens += len(reader.tokenizer.encode(prompt(template, label))) + 2  # SOS and EOT
        if some and reader.causal and tokens > CHECK_LABELS * TOKENS_PER_LABEL:
            break
        some.append(label)
    return some


def _to_bytes(pixels: NDArray[np.float32], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Undo the normalisation, [I, 3, S, S] -> uint8 [I, S, S, 3]; normalised again it is equal to the bit."""
    mean, std = (np.array(value, np.float64).reshape(3, 1, 1) for value in (preprocess.mean, preprocess.std))
    values: NDArray[np.uint8] = np.rint((pixels * std + mean) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return values
