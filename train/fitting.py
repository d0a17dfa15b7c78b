"""Train, evaluate and write a run: dataset and backbone in, run folder out."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from attri.runtime._util.signals import defer_signals
from attri.runtime._util.wording import plural
from attri.runtime.errors import EngineError, UsageError
from attri.runtime.text.reader import Tokens
from attri.train.config import Device, PromptConfig, TrainConfig, trainable_parts
from attri.train.data.csv_dataset import table_of
from attri.train.data.read import Dataset
from attri.train.incremental.start import Start
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import Backbone, load_backbone
from attri.train.model.pool import fit_keys
from attri.train.report.entries import with_former_names
from attri.train.report.learning_curve import fewer_shots, learning_curve
from attri.train.report.report import write_report
from attri.train.report.results import compare_with_start, draw_figures, encode_what_is_scored, evaluate
from attri.train.training import checkpoint, distributed
from attri.train.training.anchors import Anchors
from attri.train.training.checkpoint import Run
from attri.train.training.features import FeatureCache, Features, require_classes
from attri.train.training.predict import predict
from attri.train.training.progress import Progress
from attri.train.training.run_folder import TRAINED, RunFolder, claim
from attri.train.training.tensorboard import Scalars
from attri.train.training.trainer import Trainer

SAVE_EVERY = 60.0  # seconds between checkpoints inside a long epoch


def pick_device(name: Device) -> torch.device:
    """Choose a device: "auto", "cpu" or "cuda", one GPU per process under torchrun.

    Raises:
        EngineError: CUDA was asked for and is not available, or has fewer GPUs than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return repeatable(torch.device("cpu"))
    if not torch.cuda.is_available():
        raise EngineError("`device` cuda: this machine has no CUDA that PyTorch can use; try `device` cpu")
    if distributed.local_rank() >= torch.cuda.device_count():
        raise EngineError(
            f"{distributed.local_rank() + 1} processes, but {plural(torch.cuda.device_count(), 'GPU')}: start fewer"
        )
    device = repeatable(torch.device("cuda", distributed.local_rank()))
    torch.cuda.set_device(device)
    return device


def repeatable(device: torch.device) -> torch.device:
    """Enable PyTorch's deterministic algorithms, so that the same training gives the same bits twice.

    An operation that has no deterministic kernel raises. cuBLAS reads its setting when it starts, so this comes before
    the first product on a GPU.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return device


def restore_threads(progress_state: dict[str, Any]) -> None:
    """Use as many CPU threads as the stopped run, because the order of sums changes their last bits."""
    torch.set_num_threads(progress_state.get("threads", torch.get_num_threads()))


def label_tokens(model: AttriPrompt, labels: list[str], template: str) -> Tokens:
    """Encode labels in a template, as the model reads text."""
    return model.backbone.reader.encode(labels, template)


def frozen_text(model: AttriPrompt, labels: list[str], templates: tuple[str, ...]) -> torch.Tensor:
    """Return T0: text features without prompts, averaged over templates, unit length [C, D]."""
    every = [model.plain_text(label_tokens(model, labels, template)) for template in templates]
    return torch.nn.functional.normalize(torch.stack(every).mean(0), dim=-1)


def new_trainer(
    backbone: Backbone,
    dataset: Dataset,
    prompt: PromptConfig,
    config: TrainConfig,
    store: FeatureCache,
    start: Start | None = None,
) -> Trainer:
    """Encode the training images and build a model: with keys that are fitted to their centres, or with a known pool.

    Raises:
        UsageError: a new class has no training image that can be read; the prompt to start at is of other weights.
    """
    repeatable(backbone.token_embedding.device)
    torch.manual_seed(config.seed)
    before = start.model(backbone).requires_grad_(False) if start else None
    model = AttriPrompt(backbone, prompt).to(backbone.token_embedding.device)
    data = store.get("encode", model, dataset.train, views=config.augmentations, seed=config.seed)
    require_classes(data, dataset.classes, start.known if start else 0)
    labels = label_tokens(model, dataset.classes, config.template)
    frozen = frozen_text(model, dataset.classes, config.frozen_templates)
    if start is None or before is None:
        fit_keys_of(model, data, config)
        return Trainer(model, labels, Anchors(frozen), data, config)
    model.pool.load_state_dict(before.pool.state_dict())
    known = label_tokens(model, dataset.classes[: start.known], config.template)
    return Trainer(model, labels, Anchors(frozen, before, known), data, config)


def fit_keys_of(model: AttriPrompt, data: Features, config: TrainConfig) -> None:
    """Fit a new model's keys to the centres of its training images."""
    fit_keys(model.pool, data.centres.flatten(0, 1), torch.Generator().manual_seed(config.seed))


def train_with_fewer(trainer: Trainer, dataset: Dataset, store: FeatureCache) -> dict[str, Any]:
    """Train again with a quarter and a half of the images of each class, and score all on the same images.

    Args:
        trainer: has trained with all of them.
        dataset: its test images are scored, or its validation images where it has none.
        store: their features.

    Returns:
        See `learning_curve`.
    """
    part, scored = ("test", dataset.test) if dataset.test else ("val", dataset.val)
    data = store.get(part, trainer.model, scored)
    most = int(torch.bincount(trainer.data.targets).max())
    trainers = {}
    for shots in fewer_shots(most):
        torch.manual_seed(trainer.config.seed)
        model = AttriPrompt(trainer.model.backbone, trainer.model.config).to(trainer.model.pool.keys.device)
        few = trainer.data.first(shots)
        fit_keys_of(model, few, trainer.config)
        trainers[shots] = Trainer(model, trainer.labels, trainer.anchors, few, trainer.config)
        store.progress.say(f"learning curve: {shots} of {plural(most, 'image')} per class")
        steps = trainer.config.epochs * trainers[shots].steps_per_epoch
        with store.progress.training(steps, 0) as bar:
            trainers[shots].run(bar, lambda _: None)
    trainers[most] = trainer
    right = {
        shots: predict(each.model, each.labels, data).argmax(1).cpu() == data.targets
        for shots, each in trainers.items()
    }
    return learning_curve(part, right, {shots: len(each.data) for shots, each in trainers.items()})


def check_curve(dataset: Dataset) -> None:
    """Check that a learning curve can be measured.

    Raises:
        UsageError: there is one training image per class, or nothing to score.
    """
    if max(Counter(image.target for image in dataset.train).values()) < 2:
        raise UsageError("a learning curve needs a class with two training images or more")
    if not dataset.test and not dataset.val:
        raise UsageError("a learning curve needs test images")


def fit(
    dataset: Dataset,
    backbone: Backbone,
    prompt: PromptConfig,
    config: TrainConfig,
    output: Path | str | None = None,
    store: FeatureCache | None = None,
    scalars: bool = False,
    latest: bool = True,
    curve: bool = False,
    start: Start | None = None,
    release: bool = False,
) -> Path:
    """Train, evaluate and write a run; resume where an earlier process with the same settings was stopped.

    Args:
        dataset: images to train and test on.
        backbone: a frozen CLIP on the device to train on.
        prompt: shape of the prompt.
        config: how it is trained.
        output: the run folder; without one it is the next free of runs/.
        store: features shared with other runs, and the progress to show.
        scalars: write TensorBoard events too.
        latest: point runs/latest to the finished run, and list images to look at.
        curve: measure the learning curve too, see `train_with_fewer`.
        start: the prompt to start at and to be compared with, whose classes are the first of the dataset's.
        release: free the image tower once all images are encoded; the backbone is of little use afterwards.

    Returns:
        The run folder.

    Raises:
        UsageError: see `claim` and `new_trainer`; the learning curve lacks images.
        FailedError: see `claim` and `Trainer.run`.
        KeyboardInterrupt: Ctrl-C; all steps so far are saved.
    """
    if not dataset.train:
        raise UsageError(f"{dataset.root} has no training images, only others to test on")
    trainable_parts(prompt, config)
    if curve:
        check_curve(dataset)
    store = store or FeatureCache(Progress(quiet=True))
    identity = {"model": backbone.name, "pretrained": backbone.tag, "sha256": backbone.sha256}
    meta = checkpoint.describe(prompt, config, identity, dataset) | ({"start": start.describe()} if start else {})
    began = time.monotonic()
    with claim(output, f"{backbone.file_name}-{dataset.name}", meta) as run:
        restore_threads(run.progress_state)
        trainer = new_trainer(backbone, dataset, prompt, config, store, start)
        if release:
            encode_what_is_scored(trainer.model, dataset, store)
            backbone.release_image_tower()
        if run.progress_state:
            trainer.restore(run.state, run.progress_state)
            step = f", step {trainer.steps}" if trainer.steps else ""
            store.progress.say(f"{run.path}: going on after epoch {trainer.epoch}{step}")
        train(trainer, run, store.progress, scalars)
        run.save_prompt(dict(trainer.model.pool.state_dict()))
        run.write(TRAINED, table_of([dataset.train[row] for row in trainer.data.rows], dataset.classes))
        results = evaluate(trainer, dataset, store, review=latest)
        if curve:
            results["learning_curve"] = train_with_fewer(trainer, dataset, store)
        if start:
            results["comparison"] = compare_with_start(trainer, dataset, store)
            if start.attracts is not None:
                results["pool_entries"] = with_former_names(results["pool_entries"], start.attracts, start.classes)
        results |= {"seconds": round(time.monotonic() - began, 1), "threads": torch.get_num_threads()}
        results |= {"versions": versions(), "run": meta}
        example = None if release else (dataset.test or dataset.train)[0]
        distributed.on_rank_zero(
            lambda: write_report(run.path, results, trainer.history, draw_figures(trainer, results, example, run.path))
        )
        run.finish(results)
        if latest:
            run.point_latest()
        return run.path


def train(trainer: Trainer, run: RunFolder, progress: Progress, scalars: bool) -> None:
    """Run the trainer; save after every epoch, once a minute within long ones, and on SIGINT or SIGTERM."""
    saved = time.monotonic()

    def save() -> None:
        nonlocal saved
        run.save_state(trainer.tensors(), trainer.progress_state())
        saved = time.monotonic()

    def on_epoch(trainer: Trainer) -> None:
        save()
        run.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in trainer.history))
        writer.epoch(trainer.history[-1])

    def on_step(record: dict[str, float]) -> None:
        bar(record)
        # Signals and clocks differ between processes, which must stop and save after the same step.
        stop, late = distributed.any_rank(asked() is not None, time.monotonic() - saved > SAVE_EVERY)
        if stop or late:
            save()
        if stop:
            raise KeyboardInterrupt

    if scalars:
        save()  # so that the folder is recognized as this run's once event files lie in it
    total, done = (epochs * trainer.steps_per_epoch for epochs in (trainer.config.epochs, trainer.epoch))
    with (
        defer_signals() as asked,
        Scalars(run.path / "tensorboard" if scalars else None, trainer.epoch) as writer,
        progress.training(total, done + trainer.steps) as bar,
    ):
        trainer.run(on_step, on_epoch)


def load_model(run: Run, backbone: Backbone | None = None) -> AttriPrompt:
    """Rebuild the trained model of a run, on its backbone if that is loaded already.

    Raises:
        UsageError: the backbone's weights are not those that the prompt was trained on.
    """
    identity = run.backbone
    if backbone is None:
        unnamed = identity["pretrained"] in ("embedded", "own", "random")
        backbone = load_backbone(identity["model"], None if unnamed else identity["pretrained"])
    if backbone.sha256 != identity["sha256"]:
        raise UsageError(f"the weights of {identity['model']} have changed since this prompt was trained: train again")
    model = AttriPrompt(backbone, run.prompt).to(backbone.token_embedding.device)
    model.pool.load_state_dict(run.tensors)
    return model.eval()


def versions() -> dict[str, str]:
    """Return the versions of Python and of what training depends on."""
    from importlib.metadata import version

    names = ("attri", "torch", "open_clip_torch", "numpy", "Pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
