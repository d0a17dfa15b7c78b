"""The classifier: preprocess, vision engine, text cache or text engine, and one product in NumPy."""

from __future__ import annotations

import copy
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
from attri.runtime.engines.vision import run_vision
from attri.runtime.errors import EngineError, UsageError
from attri.runtime.image_batches import Decoded, ImageInput, is_single, read_batches
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt
from attri.runtime.text.active_labels import ActiveLabels
from attri.runtime.text.cache import TextCache
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis


class Classifier:
    """An open-vocabulary image classifier from a bundle: use `load`.

        with Classifier.load("bundle", labels=["red apple", "green apple"]) as classifier:
            print(classifier("photo.jpg").label)

    Thread safety: calls may come from several threads, and prompt, labels and threshold may be set from any thread at
    any time; each prediction is made with one prompt, one set of labels and the threshold that belongs to them. ONNX
    Runtime runs calls side by side, TensorRT in turn. A `RetrievalHysteresis` is the memory of one video: do not share
    it between threads. Labels of its own for a thread or a source: `fork`.

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
        self.bundle, self.cache, self.batch = bundle, cache, batch
        self._vision, self._text = vision, TextEncoder(bundle, text, cache, shortlist)
        self._active = ActiveLabels(self._text, bundle.prompt, labels)
        self._preprocess = bundle.preprocess()

    @classmethod
    def load(
        cls,
        path: Path | str = "bundle",
        labels: Sequence[str] | None = None,
        *,
        prompt: Prompt | Path | str | None = None,
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
            prompt: a prompt, or its file; None takes the one in the bundle.
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
            if prompt is not None:
                classifier.set_prompt(prompt)
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
        self._text.graph.close()

    def fork(self, labels: Sequence[str] | None = None) -> Classifier:
        """Return a classifier with the same engines and text cache, whose labels and threshold are its own.

        Args:
            labels: Its labels; None are those of this classifier.

        Raises:
            LabelsError: The labels cannot be used.
        """
        fork = copy.copy(self)
        fork._active = self._active.fork()
        if labels is not None:
            fork.set_labels(labels)
        return fork

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels to tell apart. Assign a new sequence at any time: cached features of other labels stay valid."""
        return self._active.names

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        self.set_labels(labels)

    @property
    def threshold(self) -> float | None:
        """Rejection threshold, 0..1: a best score below it gives the label None; None never rejects.

        The bundle's threshold was chosen from scores of its own labels and is applied to no others. Assign one to
        reject with any labels, or None to reject nothing.
        """
        return self._active.threshold

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._active.threshold = threshold

    @property
    def threshold_not_applied(self) -> bool:
        """Whether the bundle has a threshold that does not apply, because the labels are not its own."""
        return self._active.threshold_not_applied

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
        self._active.set(labels, locations, prompts, template)

    @property
    def prompt(self) -> Prompt:
        """The learned prompt in use."""
        return self._active.prompt

    def set_prompt(self, prompt: Prompt | Path | str) -> None:
        """Replace the learned prompt, at any time; no graph is loaded and no engine built.

        Labels that were set stay, others are the new prompt's own. Predictions that have begun keep the old prompt.

        Args:
            prompt: A prompt, or its file.

        Raises:
            BundleError: The file is missing or damaged, or was made for another bundle; the old prompt stays.
            EngineError: It has more pool entries than the engine takes.
            LabelsError: The labels cannot be used with it.
        """
        name = "the prompt" if isinstance(prompt, Prompt) else str(prompt)
        prompt = prompt if isinstance(prompt, Prompt) else Prompt.read(prompt)
        prompt.require_fit(self.bundle.manifest.base, name)
        most = self._vision.limits.get("N", prompt.entries)
        if prompt.entries > most:
            raise EngineError(f"{name} has {prompt.entries} pool entries, this engine takes {most}")
        self._active.set_prompt(prompt)

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
        features = [self.encode_image(np.stack([pixels for pixels, _ in batch]))[0] for batch in batches]
        return np.concatenate(features) if features else np.empty((0, _embedding_size(self.bundle)), np.float32)

    @property
    def template(self) -> str:
        """The learned prompt's sentence around each label, with {} in its place."""
        return self._active.prompt.facts.template

    def encode_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Run the vision graph alone: pixels [B, 3, S, S] to unit features [B, D] and pool entries [B, L, M]."""
        features, retrieved, _ = run_vision(self._vision, pixels, self._active.prompt)
        return features, retrieved

    def encode_text(self, retrieved: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Run the text graph alone, without the cache: pool entries [B, L, M] to B times unit features [P, D]."""
        labels = self._active.get()
        texts = self._text.graph.run(labels.tokens, retrieved, labels.prompt)
        return [features[labels.prompt_index] for features in texts]

    def cosines(self, features: NDArray[np.float32], retrieved: NDArray[np.int32]) -> NDArray[np.float32]:
        """Compare images with the labels, through the text cache.

        Args:
            features: Of images, as `encode_image` gives them [B, D].
            retrieved: Their pool entries [B, L, M].

        Returns:
            Cosines of image and text features [B, C]; of a label with several prompts, the greatest.
        """
        labels = self._active.get()
        found, _ = self._text.cosines(labels, features, retrieved)
        return np.stack([labels.best_of_each(cosines) for cosines in found])

    def _classify(self, images: Sequence[Decoded], hysteresis: RetrievalHysteresis | None) -> list[Prediction]:
        labels = self._active.get()
        threshold = self._active.threshold_of(labels)  # of these labels, also where others come meanwhile
        started = time.perf_counter()
        pixels = np.stack([pixels for pixels, _ in images])  # [B, 3, S, S]
        features, retrieved, scores = run_vision(self._vision, pixels, labels.prompt)
        if hysteresis is not None and labels.prompt.retrieves:
            retrieved = np.stack([hysteresis(of_image, labels.prompt.digest) for of_image in scores])
        seen = time.perf_counter()
        cosines, known = self._text.cosines(labels, features, retrieved)
        scale = np.float32(self.bundle.manifest.logit_scale / labels.prompt.facts.temperature)
        results = [_softmax(scale * labels.best_of_each(cosine)) for cosine in cosines]
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


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{name} is {value}: give {least} or more")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent: NDArray[Any] = np.exp(logits - logits.max())
    result: NDArray[np.float32] = (exponent / exponent.sum()).astype(np.float32)
    return result
