"""The vision graph: pixels in, image features and retrieved pool entries out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.base import Engine
from attri.runtime.prompt import Prompt


class VisionOutputs(NamedTuple):
    """Outputs of the vision graph for B images.

    Attributes:
        features: Unit rows float32 [B, D], as plain CLIP has them.
        retrieved: Pool entries that the images get, int32 [B, L, M], ascending.
        scores: Cosines of cluster centres and keys float32 [B, L, K, N].
    """

    features: NDArray[np.float32]
    retrieved: NDArray[np.int32]
    scores: NDArray[np.float32]


def run_vision(engine: Engine, pixels: NDArray[np.float32], prompt: Prompt) -> VisionOutputs:
    """Run the vision graph on pixels [B, 3, S, S], in as many runs as its engine needs.

    Args:
        engine: Runs the graph.
        pixels: Of the images.
        prompt: The prompt to retrieve from.

    Raises:
        EngineError: The engine failed.
    """
    most = engine.limits.get("B", len(pixels))
    rows = (pixels[first : first + most] for first in range(0, len(pixels), most))
    parts: list[list[NDArray[Any]]] = [engine.run({"pixels": each, **prompt.vision_inputs}) for each in rows]
    features, nearest, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return VisionOutputs(features, prompt.select(nearest), scores)
