"""The text graph: prompts and retrieved pool entries in, text features out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import Bundle
from attri.runtime.engines.base import Engine, require_finite
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import Features
from attri.runtime.text.label_tokens import LabelTokens

ROWS = 16384  # rows of tokens, or cells of the attention's layout, per run: bounds its memory (about 1 GB at width 512)


class TextGraph:
    """The token embedding and the engine of the text graph, run in as many parts as memory and engine ask for.

    Args:
        bundle: Gives the token embedding.
        engine: Runs the text graph.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._engine = engine
        self._embedding = bundle.token_embedding()

    def close(self) -> None:
        """Give back the engine's device memory and the mapped file; nothing is run after it."""
        self._engine.close()
        self._embedding = np.empty((0, self._embedding.shape[1]), self._embedding.dtype)

    def run(self, tokens: LabelTokens, retrieved: NDArray[np.int32], prompt: Prompt) -> list[Features]:
        """Compute the text features of all prompts for each image.

        Args:
            tokens: Of U prompts.
            retrieved: Pool entries of the images [B, L, M].
            prompt: The prompt whose entries they are.

        Returns:
            B times unit features [U, D], each an array of its own.

        Raises:
            EngineError: The engine failed, or a feature is not finite.
        """
        result: list[Features] | None = None
        for prompts, part in self._parts(tokens):
            feed = {**prompt.text_inputs, **part.feed(self._embedding)}
            most = max(1, min(ROWS // _cells(part), self._engine.limits.get("B", ROWS)))
            images: list[NDArray[Any]] = []
            for first in range(0, len(retrieved), most):
                images += list(self._engine.run({"retrieved": retrieved[first : first + most], **feed})[0])
            if result is None:
                result = [np.empty((len(tokens), image.shape[1]), np.float32) for image in images]
            for whole, image in zip(result, images, strict=True):
                require_finite(image, "text_features", self._engine)
                whole[prompts] = image  # a copy, because a view in the cache would keep its whole batch alive
        assert result is not None
        return result

    def _parts(self, tokens: LabelTokens) -> list[tuple[NDArray[np.intp] | slice, LabelTokens]]:
        """Prompts in runs that are not too large, those of one length together, and where their features belong."""
        if self._fits(tokens):
            return [(slice(None), tokens)]
        parts: list[tuple[NDArray[np.intp] | slice, LabelTokens]] = []
        todo = [np.argsort(tokens.lengths, kind="stable")]
        while todo:
            prompts = todo.pop()
            part = tokens.take(prompts)
            if len(prompts) == 1 or self._fits(part):
                parts.append((prompts, part))
            else:
                todo += np.array_split(prompts, 2)
        return parts

    def _fits(self, tokens: LabelTokens) -> bool:
        extents = {"C": len(tokens), "R": len(tokens.suffix_tokens)}
        within = all(extent <= self._engine.limits.get(name, extent) for name, extent in extents.items())
        return within and _cells(tokens) <= ROWS


def _cells(tokens: LabelTokens) -> int:
    """What bounds the memory of a run with one image."""
    return max(len(tokens.suffix_tokens), tokens.token_rows.size)
