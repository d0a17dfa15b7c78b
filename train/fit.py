"""From a folder of images to a run folder: the main job of this package, step by step."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attri.runtime._util.signals import defer_signals
from attri.runtime._util.wording import plural
from attri.runtime.errors import EngineError, ImageError, UsageError
from attri.runtime.images import load_image
from attri.runtime.text.label_tokens import LabelTokens, encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import PromptConfig, TrainConfig, trainable_parts
from attri.train.data.read import Dataset, LabelledImage
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import Backbone, load_backbone
from attri.train.model.pool import fit_keys
from attri.train.report.cluster_sheet import draw_clusters, usage_by_class
from attri.train.report.plots import draw_confusion, draw_curves, draw_usage
from attri.train.report.report import write_report
from attri.train.training import checkpoint, distributed
from attri.train.training.checkpoint import Run
from attri.train.training.features import FeatureCache, Features, require_classes
from attri.train.training.predict import accuracy, predict, predict_plain, retrieve
from attri.train.training.progress import Progress
from attri.train.training.run_folder import RunFolder, claim
from attri.train.training.tensorboard import Scalars
from attri.train.training.trainer import Trainer

SAVE_EVERY = 60.0  # seconds between checkpoints inside a long epoch


def pick_device(name: str) -> torch.device:
    """auto, cpu or cuda, of which torchrun gives each process its own. Raises EngineError where there is no CUDA."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return repeatable(torch.device("cpu"))
    if not torch.cuda.is_available():
        raise EngineError("--device cuda: this machine has no CUDA that PyTorch can use; try --device cpu")
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
    """Use as many CPU threads as the stopped run: sums that are split in another way differ in their last bits."""
    torch.set_num_threads(progress_state.get("threads", torch.get_num_threads()))


def label_tokens(model: AttriPrompt, labels: list[str], template: str) -> LabelTokens:
    return encode_labels(Tokenizer(), labels, template, model.backbone.context_length)


def frozen_text(model: AttriPrompt, labels: list[str], templates: tuple[str, ...]) -> torch.Tensor:
    """T0: plain text features, averaged over templates and unit again [C, D]."""
    every = [model.plain_text(label_tokens(model, labels, template)) for template in templates]
    return torch.nn.functional.normalize(torch.stack(every).mean(0), dim=-1)


def new_trainer(
    backbone: Backbone, dataset: Dataset, prompt: PromptConfig, config: TrainConfig, store: FeatureCache
) -> Trainer:
    """A model with fresh prompts, its keys placed among the training images, which are encoded here.

    Raises:
        UsageError: a class has no training image that can be read.
    """
    repeatable(backbone.token_embedding.device)
    torch.manual_seed(config.seed)
    model = AttriPrompt(backbone, prompt).to(backbone.token_embedding.device)
    data = store.get("encode", model, dataset.train, views=config.augmentations, seed=config.seed)
    require_classes(data, dataset.classes)
    generator = torch.Generator().manual_seed(config.seed)
    fit_keys(model.pool, data.centres.flatten(0, 1), generator)
    labels = label_tokens(model, dataset.classes, config.template)
    return Trainer(model, labels, frozen_text(model, dataset.classes, config.frozen_templates), data, config)


def fit(
    dataset: Dataset,
    backbone: Backbone,
    prompt: PromptConfig,
    config: TrainConfig,
    output: Path | None = None,
    store: FeatureCache | None = None,
    scalars: bool = False,
    latest: bool = True,
) -> Path:
    """Train, evaluate and write a run; go on where an earlier process with the same settings was stopped.

    Args:
        output: the run folder; without one it is the next free of runs/.
        store: features shared with other runs, and the progress to show.
        scalars: write TensorBoard events too.
        latest: point runs/latest to the finished run.

    Returns:
        The run folder.

    Raises:
        UsageError, FailedError: see `claim`, `new_trainer` and `Trainer.run`.
        KeyboardInterrupt: Ctrl-C; all steps so far are saved.
    """
    if not dataset.train:
        raise UsageError(f"{dataset.root} has no training images, only others to test on")
    trainable_parts(prompt, config)
    store = store or FeatureCache(Progress(quiet=True))
    identity = {"model": backbone.name, "pretrained": backbone.tag, "sha256": backbone.sha256}
    meta = checkpoint.describe(prompt, config, identity, dataset)
    start = time.monotonic()
    with claim(output, f"{backbone.name}-{dataset.name}", meta) as run:
        restore_threads(run.progress_state)
        trainer = new_trainer(backbone, dataset, prompt, config, store)
        if run.progress_state:
            trainer.restore(run.state, run.progress_state)
            step = f", step {trainer.steps}" if trainer.steps else ""
            store.progress.say(f"{run.path}: going on after epoch {trainer.epoch}{step}")
        train(trainer, run, store.progress, scalars)
        run.save_prompt(dict(trainer.model.pool.state_dict()))
        results = evaluate(trainer, dataset, store)
        results |= {"seconds": round(time.monotonic() - start, 1), "threads": torch.get_num_threads()}
        results |= {"versions": versions(), "run": meta}
        example = (dataset.test or dataset.train)[0]
        distributed.on_rank_zero(
            lambda: write_report(run.path, results, trainer.history, draw(trainer, results, example, run.path))
        )
        run.finish(results)
        if latest:
            run.point_latest()
        return run.path


def train(trainer: Trainer, run: RunFolder, progress: Progress, scalars: bool) -> None:
    """Run the trainer; save after every epoch, once a minute in long ones, and when asked to stop."""
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
        save()  # so that the folder is known for this run's before event files lie in it
    total, done = (epochs * trainer.steps_per_epoch for epochs in (trainer.config.epochs, trainer.epoch))
    with (
        defer_signals() as asked,
        Scalars(run.path / "tensorboard" if scalars else None, trainer.epoch) as writer,
        progress.training(total, done + trainer.steps) as bar,
    ):
        trainer.run(on_step, on_epoch)


def evaluate(trainer: Trainer, dataset: Dataset, store: FeatureCache) -> dict[str, Any]:
    """Accuracy with and without prompts on the val and test images that can be read, and the use of the pool."""
    model = trainer.model
    results: dict[str, Any] = {}
    for part, images in (("val", dataset.val), ("test", dataset.test)):
        if images and len(data := store.get(part, model, images)):
            results[part] = score(model, trainer.labels, data) | {"skipped": data.skipped}
    results["train"] = {"images": len(trainer.data), "skipped": trainer.data.skipped}
    retrieved = retrieve(model, trainer.data.centres.flatten(0, 1))
    usage = model.pool.usage(retrieved)  # [L, N]
    results["pool_usage"] = [[round(share, 4) for share in block] for block in usage.tolist()]
    results["pool_alive"] = [round(float(share), 4) for share in (usage > 0).double().mean(1)]
    return results


def draw(trainer: Trainer, results: dict[str, Any], example: LabelledImage, folder: Path) -> list[Path]:
    """Draw the figures of the report as PNG files in `folder`."""
    classes, pool = results["run"]["classes"], trainer.model.pool
    figures = [folder / "curves.png"]
    draw_curves(trainer.history, figures[0])
    if "test" in results:
        figures.append(folder / "confusion.png")
        draw_confusion(np.array(results["test"]["confusion"]), classes, figures[-1])
    if pool.keys.shape[1]:
        centres, targets = trainer.data.centres, trainer.data.targets
        retrieved = retrieve(trainer.model, centres.flatten(0, 1))
        views = targets.repeat_interleave(centres.shape[1])
        by_class = usage_by_class(retrieved, views, len(classes), pool.keys.shape[1])
        figures += [folder / "usage.png", folder / "clusters.png"]
        draw_usage(np.array(results["pool_usage"]), figures[-2])
        try:
            image = load_image(example.path)
        except ImageError:
            return figures[:-1]  # it is in the report's list of images that cannot be read
        caption = f"{example.path.name}, {classes[example.target]}"
        draw_clusters(trainer.model, image, classes, by_class, figures[-1], caption=caption)
    return figures


def score(model: AttriPrompt, labels: LabelTokens, data: Features) -> dict[str, Any]:
    """Images, accuracy with and without prompts, and the confusion matrix (rows are the truth) of the former."""
    logits = predict(model, labels, data)
    classes = logits.shape[1]
    pairs = data.targets * classes + logits.argmax(1).cpu()
    return {
        "images": len(data),
        "zero_shot": accuracy(predict_plain(model, labels, data), data.targets),
        "prompted": accuracy(logits, data.targets),
        "confusion": torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist(),
    }


def load_model(run: Run, backbone: Backbone | None = None) -> AttriPrompt:
    """Rebuild the trained model of a run, on its backbone if that is loaded already.

    Raises:
        UsageError: the backbone's weights are not those that the prompt was trained on.
    """
    identity = run.backbone
    if backbone is None:
        embedded_or_random = identity["pretrained"] in ("embedded", "random")
        backbone = load_backbone(identity["model"], None if embedded_or_random else identity["pretrained"])
    if backbone.sha256 != identity["sha256"]:
        raise UsageError(f"the weights of {identity['model']} have changed since this prompt was trained: train again")
    model = AttriPrompt(backbone, run.prompt).to(backbone.token_embedding.device)
    model.pool.load_state_dict(run.tensors)
    return model.eval()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("attri", "torch", "open_clip_torch", "numpy", "Pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
