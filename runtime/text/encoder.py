"""Text features of labels for retrieved pool entries: from the text cache, or by the text graph where it has none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import MERGES, Bundle
from attri.runtime.engines.base import Engine
from attri.runtime.text.cache import Features, Ids, TextCache
from attri.runtime.text.label_tokens import LabelTokens, encode_labels, warn_of_alike
from attri.runtime.tokenizer import Tokenizer

ROWS = 16384  # rows of tokens, or cells of the attention's layout, per run: bounds its memory (about 1 GB at width 512)


@dataclass(frozen=True)
class LabelSet:
    """Encoded labels, replaced as a whole, so that other threads see the old set or the new one.

    Attributes:
        labels: C labels as they were given.
        tokens: Token ids of the U distinct prompts among them.
        prompt_hashes: uint64 [U], ascending, 64-bit hashes of the prompts' token ids.
        prompt_index: intp [P], the distinct prompt of each prompt; a label has one prompt or several.
        label_offsets: intp [C], where the prompts of each label begin.
        zero_shot_features: Plain CLIP's features [U, D], where there are more labels than a shortlist takes.
        own: Whether they are the bundle's own labels, which its rejection threshold was chosen for.
    """

    labels: tuple[str, ...]
    tokens: LabelTokens
    prompt_hashes: Ids
    prompt_index: NDArray[np.intp]
    label_offsets: NDArray[np.intp]
    zero_shot_features: Features | None = None
    own: bool = False


class TextEncoder:
    """The text side of a bundle: tokenizer, token embedding, text engine and text cache.

    Args:
        bundle: Gives tokenizer, token embedding and the shape of the prompt pool.
        engine: Runs the text graph.
        cache: May be shared with other encoders of the same bundle.
        shortlist: Most labels that are prompted for an image; None is all. See `cosines`.
    """

    def __init__(self, bundle: Bundle, engine: Engine, cache: TextCache, shortlist: int | None = None) -> None:
        text, retrieval = bundle.manifest.text, bundle.manifest.retrieval
        self.shortlist = shortlist
        # One past the last entry is none: what it would bring is masked (`attri.train.model.prompted_text`).
        self._nothing = np.full((1, retrieval["depth"], retrieval["retrieved"]), retrieval["pool_size"], np.int32)
        self.template: str = text["template"]
        self.engine, self.cache = engine, cache
        self._context: int = text["context_length"]
        self._tokenizer = Tokenizer(bundle.file(MERGES))
        self._embedding = bundle.token_embedding()

    def close(self) -> None:
        """Give back the engine's device memory and the mapped file; nothing is encoded after it."""
        self.engine.close()
        self._embedding = np.empty((0, self._embedding.shape[1]), self._embedding.dtype)

    def label_set(
        self,
        labels: Sequence[str],
        locations: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> LabelSet:
        """Tokenize labels. Arguments as of `Classifier.set_labels`.

        Raises:
            LabelsError: There are no labels.
        """
        groups = [(label,) for label in labels] if prompts is None else prompts
        sizes = [len(group) for group in groups]
        if len(sizes) != len(labels) or 0 in sizes:
            raise ValueError("every label needs its own prompts, one or more")
        words = [prompt for group in groups for prompt in group]
        named = locations and [each for each, size in zip(locations, sizes, strict=True) for _ in range(size)]
        template = self.template if template is None else template
        tokens = encode_labels(self._tokenizer, words, template, self._context, named)
        digests = [hashlib.blake2b(np.array(ids, np.int32).tobytes(), digest_size=8) for ids in tokens.whole()]
        every = np.frombuffer(b"".join(digest.digest() for digest in digests), np.uint64)
        # 64 bits: two of 10,000 prompts share an id once in 10^11 sets.
        ids, first, prompt = np.unique(every, return_index=True, return_inverse=True)
        starts = np.cumsum([0, *sizes[:-1]])
        warn_of_alike(labels, starts, prompt, locations)
        result = LabelSet(tuple(labels), tokens.take(first), ids, prompt, starts)
        if self.shortlist is None or len(labels) <= self.shortlist:
            return result
        (plain,), _ = self.features(result, self._nothing, count=False)
        return replace(result, zero_shot_features=plain)

    def cosines(
        self, labels: LabelSet, images: Features, retrieved: NDArray[np.int32]
    ) -> tuple[list[NDArray[np.float32]], list[bool]]:
        """Cosine [P] of every prompt with every image, and whether all text features were cached.

        With a shortlist only the labels whose plain features are nearest to an image are prompted for it, each by its
        best prompt and with all of its prompts; the others keep the plain cosine (our choice).

        Args:
            labels: what `encode` gave.
            images: unit features [B, D].
            retrieved: their entries [B, L, M].
        """
        if labels.zero_shot_features is None or self.shortlist is None:
            texts, hits = self.features(labels, retrieved)
            return [_cosines(text, image)[labels.prompt_index] for text, image in zip(texts, images, strict=True)], hits
        results, hits = [], []
        for image, entries in zip(images, retrieved, strict=True):
            cosine = _cosines(labels.zero_shot_features, image)  # [U]
            chosen = _nearest(labels, cosine, self.shortlist)
            (text,), (hit,) = self.features(labels, entries[None], chosen)
            cosine[chosen] = _cosines(text, image)
            results.append(cosine[labels.prompt_index])
            hits.append(hit)
        return results, hits

    def features(
        self,
        labels: LabelSet,
        retrieved: NDArray[np.int32],
        chosen: NDArray[np.intp] | None = None,
        count: bool = True,
    ) -> tuple[list[Features], list[bool]]:
        """Unit features [U, D] of every prompt for every image, and whether they were all known.

        Images with equal entries are computed once, for the first of them; those that lack the same labels, together.

        Args:
            labels: what `encode` gave.
            retrieved: entries [B, L, M].
            chosen: some of the prompts, ascending; None is all.
            count: whether the cache counts it.
        """
        ids = labels.prompt_hashes if chosen is None else labels.prompt_hashes[chosen]
        chosen = np.arange(len(ids)) if chosen is None else chosen
        keys = [entries.tobytes() for entries in retrieved]
        found = {key: self.cache.get(key, ids, count) for key in dict.fromkeys(keys)}
        done = {key: features for key, (known, features) in found.items() if known.all()}
        hits = [key in done or key in keys[:row] for row, key in enumerate(keys)]
        if count:
            self.cache.count_hits(len(keys) - len(found))
        lacking: dict[bytes, list[bytes]] = {}
        for key, (known, _) in found.items():
            if key not in done:
                lacking.setdefault(known.tobytes(), []).append(key)
        for group in lacking.values():
            known = found[group[0]][0]
            missing = chosen[~known]
            tokens = labels.tokens if len(missing) == len(labels.prompt_hashes) else labels.tokens.take(missing)
            rows = np.stack([retrieved[keys.index(key)] for key in group])
            for key, computed in zip(group, self.run(tokens, rows), strict=True):
                self.cache.put(key, labels.prompt_hashes[missing], computed)
                done[key] = _together(known, found[key][1], computed)
        return [done[key] for key in keys], hits

    def run(self, tokens: LabelTokens, retrieved: NDArray[np.int32]) -> list[Features]:
        """The text graph alone, in as many runs as memory and engine ask for: retrieved [B, L, M] -> B times [U, D]."""
        result: list[Features] | None = None
        for classes, part in self._parts(tokens):
            feed = part.feed(self._embedding)
            most = max(
                1, min(ROWS // max(len(part.suffix_tokens), part.token_rows.size), self.engine.limits.get("B", ROWS))
            )
            images: list[NDArray[Any]] = []
            for first in range(0, len(retrieved), most):
                images += list(self.engine.run({"retrieved": retrieved[first : first + most], **feed})[0])
            if result is None:
                result = [np.empty((len(tokens), image.shape[1]), np.float32) for image in images]
            for whole, image in zip(result, images, strict=True):
                whole[classes] = image  # a copy, because a view in the cache would keep its whole batch alive
        assert result is not None
        return result

    def _parts(self, tokens: LabelTokens) -> list[tuple[NDArray[np.intp] | slice, LabelTokens]]:
        """Prompts in runs that are not too large, those of one length together, and where their features belong."""
        if self._fits(tokens):
            return [(slice(None), tokens)]
        parts: list[tuple[NDArray[np.intp] | slice, LabelTokens]] = []
        todo = [np.argsort(tokens.lengths, kind="stable")]
        while todo:
            classes = todo.pop()
            part = tokens.take(classes)
            if len(classes) == 1 or self._fits(part):
                parts.append((classes, part))
            else:
                todo += np.array_split(classes, 2)
        return parts

    def _fits(self, tokens: LabelTokens) -> bool:
        extents = {"C": len(tokens), "R": len(tokens.suffix_tokens)}
        within = all(extent <= self.engine.limits.get(name, extent) for name, extent in extents.items())
        return within and max(len(tokens.suffix_tokens), tokens.token_rows.size) <= ROWS


def _nearest(labels: LabelSet, plain: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The prompts of the `count` labels whose best prompt is nearest by the cosines `plain` [U], ascending."""
    best = np.maximum.reduceat(plain[labels.prompt_index], labels.label_offsets)  # [C]
    taken = np.zeros(len(best), bool)
    taken[np.argpartition(-best, count - 1)[:count]] = True
    sizes = np.diff(labels.label_offsets, append=len(labels.prompt_index))  # [C]
    chosen: NDArray[np.intp] = np.unique(labels.prompt_index[np.repeat(taken, sizes)])
    return chosen


def _cosines(texts: Features, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines [U] of unit features [U, D] and [D].

    Not by BLAS, whose threads spin on and keep the cores from the next frame's graphs: with 1,000 labels that doubles a
    cached frame on two cores (benchmarks/session.md).
    """
    result: NDArray[np.float32] = np.einsum("ud,d->u", texts, image)
    return result


def _together(known: NDArray[np.bool_], cached: Features, computed: Features) -> Features:
    """One array [U, D] of what was known and what was not."""
    if not known.any():
        return computed
    whole = np.empty((len(known), computed.shape[1]), np.float32)
    whole[known], whole[~known] = cached, computed
    return whole
