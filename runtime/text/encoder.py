"""Text features of labels for retrieved pool entries: from the text cache, or by the text graph where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import Bundle
from attri.runtime.engines.base import Engine
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import Features, TextCache
from attri.runtime.text.graph import TextGraph
from attri.runtime.text.label_inputs import LabelInputs
from attri.runtime.text.label_set import LabelSet, tokenize_labels
from attri.runtime.text.reader import TextReader


class TextEncoder:
    """The text side of a bundle: tokenizer, text graph and text cache.

    Args:
        bundle: Gives tokenizer, token embedding and how many entries are retrieved.
        engine: Runs the text graph.
        cache: May be shared with other encoders of the same bundle.
        shortlist: Most labels that are prompted for an image; None is all. See `cosines`.
        label: Runs the label graph, where the bundle has one.

    Attributes:
        graph: The text graph alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        cache: TextCache,
        shortlist: int | None = None,
        label: Engine | None = None,
    ) -> None:
        self.graph = TextGraph(engine, LabelInputs(bundle.token_embedding(), label))
        self._cache, self._shortlist = cache, shortlist
        self._retrieved = (1, bundle.manifest.retrieval["depth"], bundle.manifest.retrieval["retrieved"])
        self._reader = TextReader.of(bundle)

    def label_set(
        self,
        prompt: Prompt,
        labels: Sequence[str],
        locations: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> LabelSet:
        """Tokenize labels, and encode them without prompts where there are more than the shortlist takes.

        Args:
            prompt: The learned prompt that they are encoded with.
            labels: What to tell apart; this and the others are as of `Classifier.set_labels`.
            locations: Where each label came from.
            prompts: Sentences of each label.
            template: The sentence around each of them; None is that of the learned prompt.

        Raises:
            LabelsError: There are no labels.
        """
        result = tokenize_labels(self._reader, prompt, labels, locations, prompts, template)
        self.graph.prepare(result.tokens)
        if self._shortlist is None or len(labels) <= self._shortlist:
            return result
        # One past the last entry is none: what it would bring is masked (`attri.train.model.prompted_text`).
        nothing = np.full(self._retrieved, prompt.entries, np.int32)
        (plain,), _ = self.features(result, nothing, count=False)
        return replace(result, zero_shot_features=plain)

    def cosines(
        self, labels: LabelSet, images: Features, retrieved: NDArray[np.int32]
    ) -> tuple[list[NDArray[np.float32]], list[bool]]:
        """Cosine [P] of every prompt with every image, and whether all text features were cached.

        With a shortlist only the labels whose plain features are nearest to an image are prompted for it, each by its
        best prompt and with all of its prompts; the others keep the plain cosine (our choice).

        Args:
            labels: Of `label_set`.
            images: Unit features [B, D].
            retrieved: Their pool entries [B, L, M].
        """
        if labels.zero_shot_features is None or self._shortlist is None:
            texts, hits = self.features(labels, retrieved)
            return [_cosines(text, image)[labels.prompt_index] for text, image in zip(texts, images, strict=True)], hits
        results, hits = [], []
        for image, entries in zip(images, retrieved, strict=True):
            cosine = _cosines(labels.zero_shot_features, image)  # [U]
            chosen = labels.nearest(cosine, self._shortlist)
            (text,), (hit,) = self.features(labels, entries[None], chosen)
            cosine[chosen] = _cosines(text, image)
            results.append(cosine[labels.prompt_index])
            hits.append(hit)
        return results, hits

    def best_features(
        self, labels: LabelSet, entries: NDArray[np.int32], image: NDArray[np.float32], rows: Sequence[int]
    ) -> Features:
        """Unit features of some labels for one image, each by that of its prompts which is nearest to the image.

        Args:
            labels: Of `label_set`.
            entries: Pool entries of the image [L, M].
            image: Its feature [D], of any length.
            rows: Numbers of the labels, R.

        Returns:
            Features [R, D].
        """
        ends = [*labels.label_offsets[1:], len(labels.prompt_index)]
        prompts = [labels.prompt_index[labels.label_offsets[row] : ends[row]] for row in rows]
        chosen = np.unique(np.concatenate(prompts))
        (text,), _ = self.features(labels, entries[None], chosen, count=False)
        places = [np.searchsorted(chosen, each) for each in prompts]
        return np.stack([text[each[_cosines(text[each], image).argmax()]] for each in places])

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
            labels: Of `label_set`.
            retrieved: Pool entries [B, L, M].
            chosen: Some of the distinct prompts, ascending; None is all.
            count: Whether the cache counts it.
        """
        hashes = labels.prompt_hashes if chosen is None else labels.prompt_hashes[chosen]
        chosen = np.arange(len(hashes)) if chosen is None else chosen
        pool = bytes.fromhex(labels.prompt.digest)  # entries of equal numbers are others in another prompt
        keys = [pool + entries.tobytes() for entries in retrieved]
        found = {key: self._cache.get(key, hashes, count) for key in dict.fromkeys(keys)}
        done = {key: features for key, (known, features) in found.items() if known.all()}
        hits = [key in done or key in keys[:row] for row, key in enumerate(keys)]
        if count:
            self._cache.count_hits(len(keys) - len(found))
        lacking: dict[bytes, list[bytes]] = {}
        for key, (known, _) in found.items():
            if key not in done:
                lacking.setdefault(known.tobytes(), []).append(key)
        for group in lacking.values():
            known = found[group[0]][0]
            missing = chosen[~known]
            tokens = labels.tokens if len(missing) == len(labels.prompt_hashes) else labels.tokens.take(missing)
            rows = np.stack([retrieved[keys.index(key)] for key in group])
            for key, computed in zip(group, self.graph.run(tokens, rows, labels.prompt), strict=True):
                self._cache.put(key, labels.prompt_hashes[missing], computed)
                done[key] = _together(known, found[key][1], computed)
        return [done[key] for key in keys], hits


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
