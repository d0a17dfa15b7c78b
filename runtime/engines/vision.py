"""The vision graph: pixels in, image features and retrieved pool entries out, for one prompt or several at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.base import Engine, require_finite
from attri.runtime.errors import EngineError
from attri.runtime.prompt import Prompt

_TABLES = 8  # of sets of prompts that take turns, such as those of cameras with tasks of their own


class VisionOutputs(NamedTuple):
    """What the vision graph says of B images to a prompt.

    Attributes:
        features: Unit rows float32 [B, D], as plain CLIP has them.
        retrieved: Pool entries that the images get, int32 [B, L, M], ascending.
        scores: Cosines of cluster centres and keys float32 [B, L, K, N].
    """

    features: NDArray[np.float32]
    retrieved: NDArray[np.int32]
    scores: NDArray[np.float32]

    def take(self, rows: Sequence[int]) -> VisionOutputs:
        """Of some of the images."""
        if [*rows] == [*range(len(self.features))]:  # most batches: no copy
            return self
        index = [*rows]
        return VisionOutputs(self.features[index], self.retrieved[index], self.scores[index])


class VisionGraph:
    """The vision graph of a bundle, in as many runs as its engine needs.

    The graph compares an image with a table of keys [L, D, N]. The keys of several prompts are one table, side by side,
    so that k prompts cost one run; each of them has its columns of the scores. Sources with different prompts share one
    table too. What is nearest the graph finds in the whole table: of several prompts it is found here, in the columns
    of each.

    Args:
        engine: Runs the graph.
        topk: k, entries that each centre retrieves; the manifest's `retrieval["topk"]`.
    """

    def __init__(self, engine: Engine, topk: int) -> None:
        self.engine, self._topk = engine, topk
        # The same array from run to run: TensorRT keeps what is read-only and the same on the device.
        self._table = functools.lru_cache(maxsize=_TABLES)(_side_by_side)

    def require_room(self, prompts: Sequence[Prompt], name: str, remedy: str = "") -> None:
        """Check that the engine takes a table of the keys of these prompts.

        Args:
            prompts: Of the tasks that share a run.
            name: What messages call them, with its verb ("the prompt has").
            remedy: What to do about it.

        Raises:
            EngineError: They have more entries than it takes.
        """
        entries = sum(prompt.entries for prompt in _distinct(prompts))
        most = self.engine.limits.get("N", entries)
        if entries > most:
            raise EngineError(f"{name} {entries} pool entries, this engine takes {most}{remedy}")

    def parts(self, prompts: Sequence[Sequence[Prompt]]) -> list[tuple[int, int]]:
        """Divide a batch into as few runs as the engine needs for a table of the keys of its prompts.

        Args:
            prompts: Of each image; those of one image fit.

        Returns:
            First row of each part, and the row after its last.
        """
        most = self.engine.limits.get("N")
        if most is None:
            return [(0, len(prompts))]
        parts, together = [0], set[Prompt]()
        for row, own in enumerate(prompts):
            together.update(own)
            if row > parts[-1] and sum(prompt.entries for prompt in _distinct([*together])) > most:
                parts.append(row)
                together = set(own)
        return list(zip(parts, [*parts[1:], len(prompts)], strict=True))

    def run(
        self, pixels: NDArray[np.float32], prompts: Sequence[Prompt], beside: Sequence[Prompt] = ()
    ) -> list[VisionOutputs]:
        """Run the vision graph once, for all of these prompts.

        Args:
            pixels: Of the images [B, 3, S, S].
            prompts: To retrieve from, one or more.
            beside: Prompts of other sources, whose runs take turns with this one. Where all of `prompts` are among
                them, their keys are the table, which is then the same in every run and stays on the device.

        Returns:
            What it says to each of the prompts, in their order.

        Raises:
            EngineError: The engine failed, or an output is not finite.
        """
        asked = {prompt.digest for prompt in prompts}
        distinct = _distinct(beside)
        if not asked <= {prompt.digest for prompt in distinct}:  # replaced a moment ago, or there is nothing beside
            distinct = _distinct(prompts)
        most = self.engine.limits.get("B", len(pixels))
        rows = (pixels[first : first + most] for first in range(0, len(pixels), most))
        inputs = {"keys": self._table(distinct)}
        parts: list[list[NDArray[Any]]] = [self.engine.run({"pixels": each, **inputs}) for each in rows]
        features, nearest, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        require_finite(features, "image_features", self.engine)
        require_finite(scores, "scores", self.engine)
        if len(distinct) == 1:
            return [VisionOutputs(features, prompts[0].select(nearest), scores)] * len(prompts)
        found, first = {}, 0
        for prompt in distinct:
            if prompt.digest in asked:
                own = scores[..., first : first + prompt.entries]
                # Of those that do not retrieve only the shape counts.
                chosen = nearest_entries(own, self._topk) if prompt.retrieves else nearest
                found[prompt.digest] = VisionOutputs(features, prompt.select(chosen), own)
            first += prompt.entries
        return [found[prompt.digest] for prompt in prompts]


def nearest_entries(scores: NDArray[np.float32], topk: int) -> NDArray[np.int32]:
    """Choose the top k pool entries of each centre, as the graph does: equal scores go to the lower entry.

    Args:
        scores: Cosines [B, L, K, N].
        topk: Entries of each centre.

    Returns:
        Entries [B, L, K topk], each row ascending.
    """
    chosen = [scores.argmax(-1)[..., None]]  # [B, L, K, 1]
    left = scores
    while len(chosen) < topk:
        left = left.copy()
        np.put_along_axis(left, chosen[-1], np.float32(-2.0), -1)  # below every cosine
        chosen.append(left.argmax(-1)[..., None])
    rows = np.concatenate(chosen, -1).reshape(*scores.shape[:2], -1)
    return np.sort(rows, axis=-1).astype(np.int32)


def _distinct(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts, each once, in their order."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.digest, prompt)
    return tuple(found.values())


def _side_by_side(prompts: tuple[Prompt, ...]) -> NDArray[np.float32]:
    """The keys of all prompts as one read-only table [L, D, sum N]."""
    if len(prompts) == 1:
        return prompts[0].vision_inputs["keys"]
    table = np.concatenate([prompt.vision_inputs["keys"] for prompt in prompts], axis=-1)
    table.flags.writeable = False
    return table
