"""The text graph: prompts and retrieved pool entries in, text features out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.base import Engine, require_finite
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import Features
from attri.runtime.text.label_inputs import LabelInputs
from attri.runtime.text.padded_tokens import PaddedTokens
from attri.runtime.text.reader import Tokens

ROWS = 16384  # rows of tokens, or cells of the attention's layout, per run: bounds its memory (about 1 GB at width 512)


class TextGraph:
    """The engine of the text graph and what it reads of labels, run in as many parts as memory and engine ask for.

    Args:
        engine: Runs the text graph.
        inputs: Gives its inputs of prompts.
    """

    def __init__(self, engine: Engine, inputs: LabelInputs) -> None:
        self._engine, self._inputs = engine, inputs

    def close(self) -> None:
        """Give back the engines' device memory and the mapped file; nothing is run after it."""
        self._engine.close()
        self._inputs.close()

    def prepare(self, tokens: Tokens) -> None:
        """Compute what does not depend on images, so that the first of them need not wait for it.

        Raises:
            EngineError: The label graph failed.
        """
        if isinstance(tokens, PaddedTokens):
            self._inputs.prepare(tokens)

    def run(self, tokens: Tokens, retrieved: NDArray[np.int32], prompt: Prompt) -> list[Features]:
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
            feed = {**prompt.text_inputs, **self._inputs(part)}
            most = max(1, min(ROWS // part.cells, self._engine.limits.get("B", ROWS)))
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

    def _parts(self, tokens: Tokens) -> list[tuple[NDArray[np.intp] | slice, Tokens]]:
        """Prompts in runs that are not too large, those of one length together, and where their features belong."""
        if self._fits(tokens):
            return [(slice(None), tokens)]
        parts: list[tuple[NDArray[np.intp] | slice, Tokens]] = []
        todo = [np.argsort(tokens.lengths, kind="stable")]
        while todo:
            prompts = todo.pop()
            part = tokens.take(prompts)
            if len(prompts) == 1 or self._fits(part):
                parts.append((prompts, part))
            else:
                todo += np.array_split(prompts, 2)
        return parts

    def _fits(self, tokens: Tokens) -> bool:
        within = all(extent <= self._engine.limits.get(name, extent) for name, extent in tokens.extents.items())
        return within and tokens.cells <= ROWS
