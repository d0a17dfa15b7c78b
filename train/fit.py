"""From a folder of pictures to a run folder: the main job of this package, step by step."""

from __future__ import annotations

import logging
import platform
import time
from pathlib import Path
from typing import Any

import torch

from attri.runtime.errors import EngineError, UsageError
from attri.runtime.prompts import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train import checkpoint, features
from attri.train.backbone import Backbone, load_backbone
from attri.train.checkpoint import Run
from attri.train.config import PromptConfig, TrainConfig
from attri.train.curves import draw_curves
from attri.train.data import Dataset
from attri.train.folder import RunFolder, claim
from attri.train.loop import Trainer, accuracy, predict
from attri.train.model import AttriPrompt, EmbeddedLabels
from attri.train.pool import fit_keys
from attri.train.progress import Progress

logger = logging.getLogger("attri")


def pick_device(name: str) -> torch.device:
    """auto, cpu or cuda. Raises EngineError where cuda was asked for and is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("--device cuda: this machine has no CUDA that PyTorch can use; try --device cpu")
    return torch.device(name)


def embed_labels(model: AttriPrompt, labels: list[str], template: str) -> EmbeddedLabels:
    return model.embed(encode_labels(Tokenizer(), labels, template, model.backbone.context_length))


def frozen_text(model: AttriPrompt, labels: list[str], templates: tuple[str, ...]) -> torch.Tensor:
    """T0: plain text features, averaged over templates and unit again [C, D]."""
    every = [model.plain_text(embed_labels(model, labels, template)) for template in templates]
    return torch.nn.functional.normalize(torch.stack(every).mean(0), dim=-1)


def new_trainer(
    backbone: Backbone, dataset: Dataset, prompt: PromptConfig, config: TrainConfig, progress: Progress
) -> Trainer:
    """A model with fresh prompts, its keys placed among the training pictures, which are encoded here."""
    torch.manual_seed(config.seed)
    model = AttriPrompt(backbone, prompt).to(backbone.token_embedding.device)
    with progress.bar("encode", len(dataset.train)) as bar:
        data = features.compute(model, dataset.train, config.views, config.seed, bar)
    generator = torch.Generator().manual_seed(config.seed)
    fit_keys(model.pool, data.centres.flatten(0, 1), generator)
    labels = embed_labels(model, dataset.classes, config.template)
    return Trainer(model, labels, frozen_text(model, dataset.classes, config.frozen_templates), data, config)


def fit(
    dataset: Dataset,
    backbone: Backbone,
    prompt: PromptConfig,
    config: TrainConfig,
    output: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train, evaluate and write a run; go on where an earlier process with the same settings was stopped.

    Returns:
        The run folder.

    Raises:
        UsageError, FailedError: see `claim`, `features.compute` and `Trainer.run`.
    """
    progress = progress or Progress(quiet=True)
    identity = {"model": backbone.name, "pretrained": backbone.tag, "sha256": backbone.sha256}
    meta = checkpoint.describe(prompt, config, identity, dataset.classes, dataset.root)
    start = time.monotonic()
    with claim(output, f"{backbone.name}-{dataset.root.name}", meta) as run:
        trainer = new_trainer(backbone, dataset, prompt, config, progress)
        if run.state:
            resume(trainer, run)
            logger.info("%s: going on after epoch %d", run.path, trainer.epoch)
        with progress.training(config.epochs * trainer.steps_per_epoch, trainer.epoch * trainer.steps_per_epoch) as bar:
            trainer.run(bar, lambda t: run.save_state(state_tensors(t), t.history))
        results = evaluate(trainer, dataset, progress)
        results |= {"seconds": round(time.monotonic() - start, 1), "versions": versions(), "run": meta}
        draw_curves(trainer.history, run.path / "curves.png")
        run.finish(dict(trainer.model.pool.state_dict()), results)
        return run.path


def state_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.model.pool.state_dict(), **checkpoint.optimizer_tensors(trainer.optimizer)}


def resume(trainer: Trainer, run: RunFolder) -> None:
    pool = {name: value for name, value in run.state.items() if not name.startswith("optimizer.")}
    trainer.model.pool.load_state_dict(pool)
    checkpoint.restore_optimizer(trainer.optimizer, run.state)
    trainer.history, trainer.epoch = list(run.history), len(run.history)


def evaluate(trainer: Trainer, dataset: Dataset, progress: Progress) -> dict[str, Any]:
    """Accuracy with and without prompts on val and test pictures, and how much of the pool is alive."""
    model = trainer.model
    results: dict[str, Any] = {}
    plain = model.plain_text(trainer.labels)
    for part, pictures in (("val", dataset.val), ("test", dataset.test)):
        if not pictures:
            continue
        with progress.bar(part, len(pictures)) as bar:
            data = features.compute(model, pictures, 1, 0, bar)
        zero_shot = data.features[:, 0].to(plain.device) @ plain.T
        results[part] = {
            "pictures": len(data),
            "zero_shot": accuracy(zero_shot, data.targets),
            "prompted": accuracy(predict(model, trainer.labels, data), data.targets),
            "skipped": data.skipped,
        }
    results["train"] = {"pictures": len(trainer.data), "skipped": trainer.data.skipped}
    retrieved = model.pool.retrieve(trainer.data.centres.flatten(0, 1).to(plain.device)).cpu()
    alive = (model.pool.usage(retrieved) > 0).double().mean(1)  # [L]
    results["pool_alive"] = [round(float(share), 4) for share in alive]
    return results


def load_model(run: Run) -> AttriPrompt:
    """Rebuild the trained model of a run.

    Raises:
        UsageError: the backbone's weights are not those that the prompt was trained on.
    """
    identity = run.backbone
    embedded_or_random = identity["pretrained"] in ("embedded", "random")
    backbone = load_backbone(identity["model"], None if embedded_or_random else identity["pretrained"])
    if backbone.sha256 != identity["sha256"]:
        raise UsageError(f"the weights of {identity['model']} have changed since this prompt was trained: train again")
    model = AttriPrompt(backbone, run.prompt)
    model.pool.load_state_dict(run.tensors)
    return model.eval()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("attri", "torch", "open_clip_torch", "numpy", "Pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
