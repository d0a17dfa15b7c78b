"""The classifier: preprocess, vision engine, text cache or text engine, and one product in NumPy."""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import VISION, Bundle
from attri.runtime.engines.base import Engine
from attri.runtime.engines.onnxruntime import Device
from attri.runtime.engines.select import Backend, EngineOptions, open_engines
from attri.runtime.engines.verify import spot_check
from attri.runtime.errors import UsageError
from attri.runtime.image_batches import Decoded, ImageInput, is_single, read_batches
from attri.runtime.prediction import Prediction
from attri.runtime.text.cache import TextCache
from attri.runtime.text.encoder import LabelSet, TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis

_LOGGER = logging.getLogger("attri")
OWN: Literal["own"] = "own"  # in the place of a threshold: the bundle's, for the labels that it was chosen for


class Classifier:
    """An open-vocabulary image classifier from a bundle: use `load`.

        with Classifier.load("bundle", labels=["red apple", "green apple"]) as classifier:
            print(classifier("photo.jpg").label)

    Thread safety: calls may come from several threads, and labels and threshold may be set from any thread at any time;
    each prediction is made with one set of labels and the threshold that belongs to it. ONNX Runtime runs calls side by
    side, TensorRT in turn. A `RetrievalHysteresis` is the memory of one video: do not share it between threads. Labels
    of its own for a thread or a source: `fork`.

    Attributes:
        bundle: The bundle; its files are closed once the classifier is loaded.
        cache: The text cache, shared with forks; counts `hits` and `misses`.
        batch: Images of an iterable that go through the engines together.
    """

    def __init__(
        self,
        bundle: Bundle,
        vision: Engine,
        text: Engine,
        labels: Sequence[str] | None,
        cache: TextCache,
        shortlist: int | None = None,
        batch: int = 16,
    ) -> None:
        manifest = bundle.manifest
        self.bundle, self.cache, self.batch = bundle, cache, batch
        self._threshold: float | Literal["own"] | None = OWN
        self._vision, self._text = vision, TextEncoder(bundle, text, cache, shortlist)
        self._preprocess = bundle.preprocess()
        self._scale = np.float32(manifest.logit_scale / manifest.temperature)
        self._changing = threading.Lock()
        self._given = None if labels is None else self._encode_labels(labels)

    @classmethod
    def load(
        cls,
        path: Path | str = "bundle",
        labels: Sequence[str] | None = None,
        *,
        backend: Backend = "auto",
        device: Device = "auto",
        threads: int | None = None,
        engine_dir: Path | str | None = None,
        rebuild_engines: bool = False,
        cache_bytes: int = 256 << 20,
        shortlist: int | None = None,
        batch: int = 16,
    ) -> Classifier:
        """Open and verify a bundle and start its graphs.

        Args:
            path: the bundle's folder.
            labels: what to tell apart, in plain words; None takes the classes that the prompt was trained on, and
                encodes them when they are needed.
            backend: "auto", "onnxruntime" or "tensorrt", see `EngineOptions`.
            device: "auto", "cpu", "cuda" or "tensorrt".
            threads: CPU threads; None is one per CPU that this process may use.
            engine_dir: the engine cache; None is engines/ in the bundle.
            rebuild_engines: build TensorRT engines again, whatever is there.
            cache_bytes: bound on cached text features; 0 keeps none.
            shortlist: with more labels than this, prompt only so many, those that plain CLIP finds nearest.
            batch: images of an iterable that go through the engines together.

        Raises:
            BundleError: The bundle is missing, damaged or too new.
            EngineError: What was asked for cannot run here.
            LabelsError: The labels cannot be used.
            MissingExtra: No engine is installed.
            ParityError: An engine does not agree with the model.
            UsageError: An argument is out of range, or two contradict each other.
        """
        _at_least("batch", batch, 1)
        _at_least("shortlist", shortlist, 1)
        _at_least("threads", threads, 1)
        _at_least("cache_bytes", cache_bytes, 0)
        with Bundle.open(path) as bundle, ExitStack() as undo:
            folder = None if engine_dir is None else Path(engine_dir)
            engines = open_engines(bundle, EngineOptions(backend, device, threads, folder, rebuild_engines))
            for engine in engines:
                undo.callback(engine.close)
            spot_check(bundle, *engines)
            classifier = cls(bundle, *engines, None, TextCache(cache_bytes), shortlist, batch)
            bundle.require_unchanged()
            if labels is not None:
                classifier.set_labels(labels)
            undo.pop_all()
        return classifier

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engines, those of forks too, and the bundle's files; nothing can be classified after it."""
        self._vision.close()
        self._text.close()

    def fork(self, labels: Sequence[str] | None = None) -> Classifier:
        """Return a classifier with the same engines and text cache, whose labels and threshold are its own.

        Args:
            labels: Its labels; None are those of this classifier.

        Raises:
            LabelsError: The labels cannot be used.
        """
        fork = copy.copy(self)
        fork._changing = threading.Lock()
        if labels is not None:
            fork.set_labels(labels)
        return fork

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels to tell apart. Assign a new sequence at any time: cached features of other labels stay valid."""
        given = self._given
        return tuple(self.bundle.manifest.labels) if given is None else given.labels

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        self.set_labels(labels)

    @property
    def threshold(self) -> float | None:
        """Rejection threshold, 0..1: a best score below it gives the label None; None never rejects.

        The bundle's threshold was chosen from scores of its own labels and is applied to no others. Assign one to
        reject with any labels, or None to reject nothing.
        """
        return self._threshold_of(self._given)

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._threshold = threshold

    def _threshold_of(self, labels: LabelSet | None) -> float | None:
        """The threshold that applies to `labels`; None are the bundle's own, which are not encoded yet."""
        chosen = self._threshold
        if chosen != OWN:
            return chosen
        return self.bundle.manifest.threshold if labels is None or labels.own else None

    @property
    def threshold_not_applied(self) -> bool:
        """Whether the bundle has a threshold that does not apply, because the labels are not its own."""
        given = self._given
        foreign = given is not None and not given.own
        return self._threshold == OWN and foreign and self.bundle.manifest.threshold is not None

    @property
    def description(self) -> str:
        """The engine in use: runtime, version and device."""
        return self._vision.description

    def set_labels(
        self,
        labels: Sequence[str],
        locations: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> None:
        """Set the labels, with more to say about them than by assigning `labels`.

        Args:
            labels: What to tell apart, in plain words.
            locations: Where each label came from, for warnings ("labels.txt line 7").
            prompts: One or more prompts for each label; the one that fits best gives the label's logit (our choice: the
                kinds of a defect stay kinds, where an average would look for something in between).
            template: The sentence around each prompt, with {} in its place; None is the bundle's.

        Raises:
            LabelsError: The labels cannot be used; the old ones stay.
        """
        given = self._encode_labels(labels, locations, prompts, template)
        _warn_of_one(given.labels)
        with self._changing:
            self._given = given

    def _encode_labels(
        self,
        labels: Sequence[str],
        locations: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> LabelSet:
        if isinstance(labels, str):
            raise TypeError("labels is one string: give a list of strings")
        own = _same_words(labels, prompts, self.bundle.manifest.labels) and template in (None, self.template)
        return dataclasses.replace(self._text.label_set(labels, locations, prompts, template), own=own)

    @property
    def _label_set(self) -> LabelSet:
        """The labels that were set, or the bundle's own, which are encoded when they are first needed."""
        if self._given is None:
            with self._changing:  # or labels that come meanwhile would be replaced by these
                if self._given is None:
                    self._given = self._encode_labels(self.bundle.manifest.labels)
                    _warn_of_one(self._given.labels)
        return self._given

    @overload
    def __call__(self, images: ImageInput, hysteresis: RetrievalHysteresis | None = None) -> Prediction: ...  # type: ignore[overload-overlap]  # str is an Iterable[str]
    @overload
    def __call__(
        self, images: Iterable[ImageInput], hysteresis: RetrievalHysteresis | None = None
    ) -> list[Prediction]: ...
    def __call__(
        self, images: ImageInput | Iterable[ImageInput], hysteresis: RetrievalHysteresis | None = None
    ) -> Prediction | list[Prediction]:
        """Classify an image, or any iterable of images `batch` at a time; threads decode the next batch meanwhile.

        Args:
            images: A path, the bytes of a file, a PIL image or uint8 [H, W, 3] RGB; an iterable of these; or a batch
                uint8 [B, H, W, 3].
            hysteresis: The memory of the video whose next frames the images are; None is exact retrieval.

        Returns:
            One prediction for one image, a list for an iterable or a batch.

        Raises:
            ImageError: An image cannot be read.
            EngineError: The engine failed.
        """
        batches = read_batches(self._preprocess, images, self.batch)
        predictions = [each for batch in batches for each in self._classify(batch, hysteresis)]
        return predictions[0] if is_single(images) else predictions

    def embed_images(self, images: ImageInput | Iterable[ImageInput]) -> NDArray[np.float32]:
        """Image features, unit rows float32 [B, D], as plain CLIP has them; prompts do not change them.

        Args:
            images: As of a call.

        Raises:
            ImageError: An image cannot be read.
            EngineError: The engine failed.
        """
        batches = read_batches(self._preprocess, images, self.batch)
        features = [self._run_vision(np.stack([pixels for pixels, _ in batch]))[0] for batch in batches]
        return np.concatenate(features) if features else np.empty((0, _embedding_size(self.bundle)), np.float32)

    @property
    def template(self) -> str:
        """The bundle's sentence around each prompt, with {} in its place."""
        return self._text.template

    def encode_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Run the vision graph alone: pixels [B, 3, S, S] to unit features [B, D] and pool entries [B, L, M]."""
        features, retrieved, _ = self._run_vision(pixels)
        return features, retrieved

    def encode_text(self, retrieved: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Run the text graph alone, without the cache: pool entries [B, L, M] to B times unit features [P, D]."""
        labels = self._label_set
        return [features[labels.prompt_index] for features in self._text.run(labels.tokens, retrieved)]

    def _run_vision(self, pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Outputs of the vision graph for pixels [B, 3, S, S], in as many runs as its engine needs."""
        most = self._vision.limits.get("B", len(pixels))
        parts = [self._vision.run({"pixels": pixels[first : first + most]}) for first in range(0, len(pixels), most)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _classify(self, images: Sequence[Decoded], hysteresis: RetrievalHysteresis | None) -> list[Prediction]:
        labels = self._label_set
        threshold = self._threshold_of(labels)  # of these labels, also where others come meanwhile
        started = time.perf_counter()
        pixels = np.stack([pixels for pixels, _ in images])  # [B, 3, S, S]
        features, retrieved, scores = self._run_vision(pixels)
        if hysteresis is not None:
            retrieved = np.stack([hysteresis(of_image) for of_image in scores])
        seen = time.perf_counter()
        cosines, known = self._text.cosines(labels, features, retrieved)
        results = [_softmax(self._scale * np.maximum.reduceat(cosine, labels.label_offsets)) for cosine in cosines]
        vision, text = (1000 * t / len(images) for t in (seen - started, time.perf_counter() - seen))
        predictions = []
        for result, entries, hit, (_, reading) in zip(results, retrieved, known, images, strict=True):
            parts = {"preprocess": 1000 * reading, "vision": vision, "text": text}
            latency = {name: round(t, 3) for name, t in (parts | {"total": sum(parts.values())}).items()}
            predictions.append(_prediction(labels.labels, threshold, result, entries, hit, latency))
        return predictions


def _prediction(
    labels: tuple[str, ...],
    threshold: float | None,
    probabilities: NDArray[np.float32],
    retrieved: NDArray[np.int32],
    hit: bool,
    latency: dict[str, float],
) -> Prediction:
    best = int(probabilities.argmax())
    score = float(probabilities[best])
    label = None if threshold is not None and score < threshold else labels[best]
    cache: Literal["hit", "miss"] = "hit" if hit else "miss"
    return Prediction(label, score, probabilities, labels, retrieved, cache, latency, threshold)


def _embedding_size(bundle: Bundle) -> int:
    outputs = {each["name"]: each["dims"] for each in bundle.manifest.graphs[VISION]["outputs"]}
    return int(outputs["image_features"][-1])


def _warn_of_one(labels: Sequence[str]) -> None:
    if len(labels) == 1:
        _LOGGER.warning(
            'one label ("%s") always scores 100%%, whatever the threshold, since nothing is compared with it: add a'
            ' second for what else is seen, such as "background"',
            labels[0],
        )


def _same_words(labels: Sequence[str], prompts: Sequence[Sequence[str]] | None, own: Sequence[str]) -> bool:
    """Whether labels are the bundle's own, in any order: the best score does not depend on it."""
    plain = prompts is None or all(list(group) == [label] for group, label in zip(prompts, labels, strict=True))
    return plain and sorted(labels) == sorted(own)


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{name} is {value}: give {least} or more")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent: NDArray[Any] = np.exp(logits - logits.max())
    result: NDArray[np.float32] = (exponent / exponent.sum()).astype(np.float32)
    return result
