"""The classifier: preprocess, vision engine, text cache or text engine, and one product in NumPy; for tasks, too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import VISION, Bundle
from attri.runtime.engines.base import Engine
from attri.runtime.engines.onnxruntime import Device
from attri.runtime.engines.select import Backend, EngineOptions, open_engines
from attri.runtime.engines.verify import spot_check
from attri.runtime.engines.vision import VisionGraph
from attri.runtime.errors import ImageError, UsageError
from attri.runtime.explain.explainer import Explainer, ImageParts
from attri.runtime.explain.explanation import Explanation, divide_cosines
from attri.runtime.image_batches import (
    DECODE_THREADS,
    Decoded,
    ImageInput,
    decode_each,
    is_single,
    map_ahead,
    read_batches,
    read_rows,
)
from attri.runtime.images import load_image
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import IndependentScores, Prompt
from attri.runtime.task import Question, Task, check_task_name, classify
from attri.runtime.text.active_labels import ActiveLabels
from attri.runtime.text.cache import TextCache
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis
from attri.runtime.text.label_set import LabelSet

Row = TypeVar("Row")
Memories = Mapping[str, RetrievalHysteresis]  # by names of tasks


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
        label: Engine | None = None,
    ) -> None:
        self.bundle, self.cache, self.batch = bundle, cache, batch
        self.tasks: Mapping[str, Classifier] = MappingProxyType({})
        self._vision = VisionGraph(vision, bundle.manifest.retrieval["topk"])
        self._text = TextEncoder(bundle, text, cache, shortlist, label)
        active = ActiveLabels(self._text, bundle.prompt, labels)
        scale, bias = bundle.manifest.logit_scale, bundle.manifest.logit_bias
        self._task = Task(self._text, active, scale, IndependentScores(scale, bias) if bias else None)
        self._preprocess = bundle.preprocess()
        self._read: Callable[[ImageInput], NDArray[np.float32]] = self._preprocess
        self._explainer = Explainer(bundle)

    @classmethod
    def load(
        cls,
        path: Path | str = "bundle",
        labels: Sequence[str] | None = None,
        *,
        prompt: Prompt | Path | str | None = None,
        prompts: Mapping[str, Prompt | Path | str | None] | None = None,
        backend: Backend = "auto",
        device: Device = "auto",
        threads: int | None = None,
        engine_dir: Path | str | None = None,
        rebuild_engines: bool = False,
        cache_bytes: int = 256 << 20,
        shortlist: int | None = None,
        batch: int = 16,
        independent: bool = False,
        fast_jpeg: bool = False,
    ) -> Classifier:
        """Open and verify a bundle and start its graphs.

        Args:
            path: the bundle's folder.
            labels: what to tell apart, in plain words; None takes the classes that the prompt was trained on, and
                encodes them when they are needed.
            prompt: a prompt, or its file; None takes the one in the bundle.
            prompts: of several tasks, by their names; None in the place of a prompt is `prompt`. `labels` are those of
                all tasks; where there are none, each has its prompt's own.
            backend: "auto", "onnxruntime" or "tensorrt", see `EngineOptions`.
            device: "auto", "cpu", "cuda" or "tensorrt".
            threads: CPU threads; None is one per CPU that this process may use.
            engine_dir: the engine cache; None is engines/ in the bundle.
            rebuild_engines: build TensorRT engines again, whatever is there.
            cache_bytes: bound on cached text features; 0 keeps none.
            shortlist: with more labels than this, prompt only so many, those that plain CLIP finds nearest.
            batch: images of an iterable that go through the engines together.
            independent: whether each label is scored by itself, see `Classifier.independent`.
            fast_jpeg: decode JPEG files at 1/2, 1/4 or 1/8 of their size where that leaves twice the pixels that the
                model takes: faster by far for large ones, but scores change in their third digit.

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
            vision, text, *label = engines
            classifier = cls(bundle, vision, text, None, TextCache(cache_bytes), shortlist, batch, *label)
            classifier._read = partial(classifier._preprocess, fast_jpeg=fast_jpeg)
            classifier._explainer = Explainer(bundle, device, threads)
            bundle.require_unchanged()
            if prompt is not None:
                classifier.set_prompt(prompt)
            classifier.independent = independent
            if labels is not None:
                classifier.set_labels(labels)
            if prompts is not None:
                classifier._set_tasks(prompts)
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
        self._vision.engine.close()
        self._text.graph.close()

    def fork(self, labels: Sequence[str] | None = None) -> Classifier:
        """Return a classifier with the same engines and text cache, whose prompt, labels and threshold are its own.

        Its tasks are forks too.

        Args:
            labels: Its labels, and those of all its tasks; None are those of this classifier and its tasks.

        Raises:
            LabelsError: The labels cannot be used.
        """
        fork = copy.copy(self)
        fork._task = self._task.fork()
        fork.tasks = MappingProxyType({name: task.fork(labels) for name, task in self.tasks.items()})
        if labels is not None:
            fork.set_labels(labels)
        return fork

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels to tell apart. Assign a new sequence at any time: cached features of other labels stay valid."""
        return self._task.active.names

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        self.set_labels(labels)

    @property
    def threshold(self) -> float | None:
        """Rejection threshold, 0..1: a best score below it gives the label None; None never rejects.

        The bundle's threshold was chosen from scores of its own labels and is applied to no others. Assign one to
        reject with any labels, or None to reject nothing.
        """
        return self._task.active.threshold

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._task.active.threshold = threshold

    @property
    def given_threshold(self) -> float | None:
        """The threshold that was assigned, for whatever labels; None where there is none, or it is the prompt's."""
        return self._task.active.given_threshold

    @property
    def threshold_not_applied(self) -> bool:
        """Whether the bundle has a threshold that does not apply, because the labels are not its own."""
        return self._task.active.threshold_not_applied

    @property
    def independent(self) -> bool:
        """Whether each label is scored by itself, so that several may hold, or none; else their scores add up to 1.

        A label holds from its threshold on: the one that was assigned, or of a label that the prompt was calibrated for
        its own, or the common one. `Prediction.held` has those that hold.

        Raises:
            UsageError: Assigned, where neither the model was trained for it nor the prompt calibrated.
        """
        return self._task.active.independent

    @independent.setter
    def independent(self, independent: bool) -> None:
        if independent:
            self._task.independent_scores(self.prompt)
        self._task.active.independent = independent

    @property
    def description(self) -> str:
        """The engine in use: runtime, version and device."""
        return self._vision.engine.description

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
        self._task.active.set(labels, locations, prompts, template)

    @property
    def prompt(self) -> Prompt:
        """The learned prompt in use."""
        return self._task.active.prompt

    def set_prompt(self, prompt: Prompt | Path | str) -> None:
        """Replace the learned prompt, at any time; no graph is loaded and no engine built.

        Labels that were set stay, others are the new prompt's own. Predictions that have begun keep the old prompt.

        Args:
            prompt: A prompt, or its file.

        Raises:
            BundleError: The file is missing or damaged, or was made for another bundle; the old prompt stays.
            EngineError: It has more pool entries than the engine takes.
            LabelsError: The labels cannot be used with it.
            UsageError: Labels are independent here, and it was not calibrated for that.
        """
        name = "the prompt" if isinstance(prompt, Prompt) else str(prompt)
        prompt = prompt if isinstance(prompt, Prompt) else Prompt.read(prompt)
        self.bundle.manifest.require_prompt(prompt, name)
        if self.independent:
            self._task.independent_scores(prompt)
        self._vision.require_room([prompt], f"{name} has")
        self._task.active.set_prompt(prompt)

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
        found = [each for (each,) in classify_together([self], images, [hysteresis])]
        return found[0] if is_single(images) else found

    @overload
    def classify_tasks(self, images: ImageInput, hysteresis: Memories | None = None) -> dict[str, Prediction]: ...  # type: ignore[overload-overlap]  # str is an Iterable[str]
    @overload
    def classify_tasks(
        self, images: Iterable[ImageInput], hysteresis: Memories | None = None
    ) -> list[dict[str, Prediction]]: ...
    def classify_tasks(
        self, images: ImageInput | Iterable[ImageInput], hysteresis: Memories | None = None
    ) -> dict[str, Prediction] | list[dict[str, Prediction]]:
        """Classify images by all `tasks`, with one run of the vision graph for each batch.

        Args:
            images: As of a call.
            hysteresis: The memory of the video whose next frames the images are, for each task that has one.

        Returns:
            The prediction of each task by its name, for one image; a list of these for an iterable or a batch.

        Raises:
            ImageError: An image cannot be read.
            EngineError: The engine failed, or the prompts have more pool entries together than it takes.
            UsageError: There are no tasks, or `hysteresis` names another.
        """
        memory = dict(hysteresis or {})
        if not self.tasks:
            raise UsageError("this classifier has no tasks: load it with `prompts`")
        if unknown := memory.keys() - self.tasks.keys():
            raise UsageError(f"there is no task {', '.join(sorted(unknown))}")
        tasks = list(self.tasks.values())
        every = classify_together(tasks, images, [memory.get(name) for name in self.tasks])
        found = [dict(zip(self.tasks, each, strict=True)) for each in every]
        return found[0] if is_single(images) else found

    def classify_each(
        self,
        images: Sequence[ImageInput],
        asked: Sequence[Sequence[tuple[Classifier, RetrievalHysteresis | None]]],
        beside: Sequence[Prompt] = (),
    ) -> list[list[Prediction] | ImageError]:
        """Classify images of which different things are asked, with one run of the vision graph for all of them.

        Args:
            images: As of a call.
            asked: Of each image, forks of this classifier, each with the memory of the video whose next frame it is.
            beside: Prompts of all forks that take turns with these; their keys are one table.

        Returns:
            For each image its predictions, in the order of its forks; of one that cannot be read, the error.

        Raises:
            EngineError: The engine failed, or the prompts of an image have more pool entries than it takes.
        """
        return self._classify_decoded(decode_each(self._read, images), asked, beside)

    def classify_rows(
        self,
        rows: Iterable[Row],
        read: Callable[[Row], ImageInput],
        readers: int = DECODE_THREADS,
        explain: bool = False,
        side_by_side: int = 1,
    ) -> Iterator[list[Prediction] | ImageError]:
        """Classify the rows of a dataset `batch` at a time, by all tasks, or by this classifier where there are none.

        Args:
            rows: What `read` takes.
            read: Gives the image of a row, or raises ImageError; threads call it for the next batch meanwhile.
            readers: How many threads.
            explain: Whether predictions have `patches`; each image then takes a run of the graph of explanations too.
            side_by_side: Batches that go through the graphs at the same time. On a CPU that gives more rows a second
                than as many threads for one batch: no thread waits for another at the end of each operator.

        Yields:
            For each row its predictions, in the order of the tasks; of one that cannot be read, the error.

        Raises:
            EngineError: The engine failed.
            UsageError: The bundle has no graph of explanations.
        """
        asked = [(each, None) for each in self.tasks.values() or (self,)]

        def answer(batch: list[Decoded | ImageError]) -> list[list[Prediction] | ImageError]:
            found = self._classify_decoded(batch, [asked] * len(batch))
            return [*map(self._with_patches, batch, found)] if explain else found

        batches = read_rows(self._read, rows, self.batch, read, readers)
        for found in map(answer, batches) if side_by_side == 1 else map_ahead(answer, batches, side_by_side):
            yield from found

    def _with_patches(
        self, decoded: Decoded | ImageError, found: list[Prediction] | ImageError
    ) -> list[Prediction] | ImageError:
        """The predictions of an image, explained by its patches."""
        if isinstance(decoded, ImageError) or isinstance(found, ImageError):
            return found
        parts = self._explainer(decoded[0])
        forks = self.tasks.values() or (self,)
        return [fork._explained(parts, prediction) for fork, prediction in zip(forks, found, strict=True)]

    def _explained(self, parts: ImageParts, prediction: Prediction) -> Prediction:
        """The prediction with the `patches` of its best label."""
        best = prediction.label or prediction.top(1)[0][0]
        (patches,), _ = self._divide(parts, self._task.active.get(), prediction.retrieved, (best,))
        return replace(prediction, patches=patches)

    def _classify_decoded(
        self,
        decoded: Sequence[Decoded | ImageError],
        asked: Sequence[Sequence[tuple[Classifier, RetrievalHysteresis | None]]],
        beside: Sequence[Prompt] = (),
    ) -> list[list[Prediction] | ImageError]:
        good = [(each, forks) for each, forks in zip(decoded, asked, strict=True) if not isinstance(each, ImageError)]
        questions = [[Question(fork._task, memory) for fork, memory in forks] for _, forks in good]
        predictions = iter(classify(self._vision, [each for each, _ in good], questions, beside) if good else [])
        return [each if isinstance(each, ImageError) else next(predictions) for each in decoded]

    @property
    def largest_batch(self) -> int | None:
        """Images that the vision engine takes in one run, at most; None: it has no bound."""
        return self._vision.engine.limits.get("B")

    def embed_images(self, images: ImageInput | Iterable[ImageInput]) -> NDArray[np.float32]:
        """Image features, unit rows float32 [B, D], as plain CLIP has them; prompts do not change them.

        Args:
            images: As of a call.

        Raises:
            ImageError: An image cannot be read.
            EngineError: The engine failed.
        """
        batches = read_batches(self._read, images, self.batch)
        features = [self.encode_image(np.stack([pixels for pixels, _ in batch]))[0] for batch in batches]
        return np.concatenate(features) if features else np.empty((0, _embedding_size(self.bundle)), np.float32)

    def require_explanations(self) -> None:
        """Check that the bundle was exported with what `explain` needs.

        Raises:
            UsageError: It was not.
        """
        self._explainer.require()

    def explain(
        self, image: ImageInput, labels: Sequence[str] | None = None, prediction: Prediction | None = None
    ) -> Explanation:
        """Say which parts of an image speak for a label, and which against it.

        The first call loads a graph of its own (attri-export --explain); each takes a run of it, about as long as one
        of the vision graph, by ONNX Runtime.

        Args:
            image: A path, the bytes of a file, a PIL image, or RGB uint8 [H, W, 3].
            labels: Some of the labels in use; None is all of them.
            prediction: Of this image, if it is known: then the pool entries that it retrieved are.

        Raises:
            ImageError: The image cannot be read.
            UsageError: The bundle has no graph for it, or a label is not in use.
            BundleError: The bundle has been replaced since the classifier was loaded.
            EngineError: An engine failed.
        """
        active = self._task.active.get()
        chosen = active.labels if labels is None else tuple(labels)
        if unknown := [label for label in chosen if label not in active.labels]:
            raise UsageError(f"{unknown[0]!r} is not among the labels that are in use")
        if not chosen:
            raise UsageError("`labels` is empty: name one or more to explain")
        loaded = load_image(image)
        pixels = self._preprocess(loaded)
        parts = self._explainer(pixels)
        if prediction is None or prediction.prompt != active.prompt.digest:
            retrieved = self._vision.run(pixels[None], [active.prompt])[0].retrieved
        else:
            retrieved = prediction.retrieved[None]
        return Explanation(
            chosen, *self._divide(parts, active, retrieved[0], chosen), self._preprocess.seen(loaded.size)
        )

    def _divide(
        self, parts: ImageParts, active: LabelSet, retrieved: NDArray[np.int32], chosen: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the parts of an image with these pool entries [L, M] contribute to its cosines with some labels."""
        whole = parts.patches.sum((0, 1)) + parts.rest
        rows = [active.labels.index(label) for label in chosen]
        return divide_cosines(self._text.best_features(active, retrieved, whole, rows), *parts)

    @property
    def template(self) -> str:
        """The learned prompt's sentence around each label, with {} in its place."""
        return self._task.active.prompt.facts.template

    def encode_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Run the vision graph alone: pixels [B, 3, S, S] to unit features [B, D] and pool entries [B, L, M]."""
        (seen,) = self._vision.run(pixels, [self.prompt])
        return seen.features, seen.retrieved

    def encode_text(self, retrieved: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Run the text graph alone, without the cache: pool entries [B, L, M] to B times unit features [P, D]."""
        labels = self._task.active.get()
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
        labels = self._task.active.get()
        found, _ = self._text.cosines(labels, features, retrieved)
        return np.stack([labels.best_of_each(cosines) for cosines in found])

    def _set_tasks(self, prompts: Mapping[str, Prompt | Path | str | None]) -> None:
        tasks = {}
        for name, prompt in prompts.items():
            check_task_name(name)
            tasks[name] = self.fork()
            if prompt is not None:
                tasks[name].set_prompt(prompt)
        require_room(list(tasks.values()))
        self.tasks = MappingProxyType(tasks)


def classify_together(
    classifiers: Sequence[Classifier],
    images: ImageInput | Iterable[ImageInput],
    hysteresis: Sequence[RetrievalHysteresis | None],
) -> list[list[Prediction]]:
    """Classify images by several forks of one classifier, with one run of the vision graph for each batch.

    Args:
        classifiers: One or more, with the same engines. Of each, what it asks is looked at once for each batch.
        images: As of a call of one.
        hysteresis: Of each classifier.

    Returns:
        For each image its predictions, in the order of the classifiers.

    Raises:
        ImageError: An image cannot be read.
        EngineError: The engine failed.
    """
    first = classifiers[0]
    asked = [Question(each._task, memory) for each, memory in zip(classifiers, hysteresis, strict=True)]
    found: list[list[Prediction]] = []
    for batch in read_batches(first._read, images, first.batch):
        found += classify(first._vision, batch, [asked] * len(batch))
    return found


def require_room(classifiers: Sequence[Classifier]) -> None:
    """Check that the engine takes the prompts of all of these forks of one classifier at once.

    Raises:
        EngineError: Their prompts have more pool entries together than it takes.
    """
    remedy = ": run fewer tasks, or train prompts with smaller pools (--pool-size)"
    prompts = {each.prompt.digest: each.prompt for each in classifiers}
    if len(prompts) > 1:
        name = f"the {len(prompts)} prompts of all tasks have together"
        classifiers[0]._vision.require_room(list(prompts.values()), name, remedy)


def _embedding_size(bundle: Bundle) -> int:
    outputs = {each["name"]: each["dims"] for each in bundle.manifest.graphs[VISION]["outputs"]}
    return int(outputs["image_features"][-1])


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{name} is {value}: give {least} or more")
