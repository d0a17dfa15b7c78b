"""Tokenized prompts as inputs of the text graph: embedded tokens, or states that the label graph has computed.

Where a text tower is not causal, the blocks before the first prompted one see the words of a label and nothing of an
image. What they compute are constants of the label: `label.onnx` runs once for each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.base import Engine, require_finite
from attri.runtime.text.label_tokens import LabelTokens
from attri.runtime.text.padded_tokens import PaddedTokens

LABELS = 64  # at once: bounds the memory of a run
MAX_BYTES = 256 << 20  # of states that are kept: 1,300 labels of 64 tokens at a width of 768


class LabelInputs:
    """Gives the text graph's inputs of prompts, but for retrieved entries and tables.

    Args:
        embedding: Token embedding [V, W], which may be mapped: only rows of words that are used are read.
        label: Runs the label graph; None for a causal tower, which has none.
        max_bytes: Bound on the states that are kept; those of other labels are computed for each run.
    """

    def __init__(self, embedding: NDArray[Any], label: Engine | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._embedding, self._label, self._max_bytes = embedding, label, max_bytes
        self._states: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give back the engine and the mapped file; nothing is asked after it."""
        if self._label is not None:
            self._label.close()
        self._embedding = np.empty((0, self._embedding.shape[1]), self._embedding.dtype)
        self._states.clear()

    def __call__(self, tokens: LabelTokens | PaddedTokens) -> dict[str, NDArray[Any]]:
        """Inputs by their names in the graph.

        Raises:
            EngineError: The label graph failed, or a state is not finite.
        """
        if isinstance(tokens, LabelTokens):
            return tokens.feed(self._embedding)
        return {"states": self.states(tokens), "pooled_rows": tokens.pooled_rows}

    def prepare(self, tokens: PaddedTokens) -> None:
        """Compute the states of prompts before they are needed, if all of them can be kept.

        Raises:
            EngineError: The label graph failed, or a state is not finite.
        """
        if 4 * tokens.ids.size * self._embedding.shape[1] <= self._max_bytes:
            self.states(tokens)

    def states(self, tokens: PaddedTokens) -> NDArray[np.float32]:
        """The tokens of each prompt before the first prompted block, [C, T, W]."""
        keys = [row.tobytes() for row in tokens.ids]
        with self._lock:
            found = {key: self._states[key] for key in keys if key in self._states}
            for key in found:
                self._states.move_to_end(key)
        first = {key: number for number, key in enumerate(keys)}
        missing = [number for key, number in first.items() if key not in found]
        for chosen in self._parts(missing):
            for number, state in zip(chosen, self._run(tokens.take(np.array(chosen))), strict=True):
                found[keys[number]] = state
                self._keep(keys[number], state, found)
        return np.stack([found[key] for key in keys])

    def _parts(self, numbers: list[int]) -> list[list[int]]:
        assert self._label is not None
        most = min(LABELS, self._label.limits.get("C", LABELS))
        return [numbers[start : start + most] for start in range(0, len(numbers), most)]

    def _run(self, tokens: PaddedTokens) -> list[NDArray[np.float32]]:
        assert self._label is not None
        states = self._label.run(tokens.feed(self._embedding))[0]
        require_finite(states, "states", self._label)
        return [np.array(state) for state in states]  # copies: a view would keep its whole batch alive

    def _keep(self, key: bytes, state: NDArray[np.float32], used: dict[bytes, NDArray[np.float32]]) -> None:
        """Keep a state in the place of those that were not used for the longest time; never of one in `used`."""
        with self._lock:
            while self._nbytes + state.nbytes > self._max_bytes and self._states:
                oldest = next(iter(self._states))
                if oldest in used:
                    return
                self._nbytes -= self._states.pop(oldest).nbytes
            if self._nbytes + state.nbytes <= self._max_bytes and key not in self._states:
                self._states[key] = state
                self._nbytes += state.nbytes
