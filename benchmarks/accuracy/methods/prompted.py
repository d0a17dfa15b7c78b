"""Prompts in every text block, trained by attri-train's own loop: AttriPrompt and three kinds of static prompts.

static      AttriPrompt's losses and as many tokens per block, the same for every image (`attri-train --method static`)
deep        static prompts by cross-entropy alone: what deep prompt tuning is without regularization
attri-ce    AttriPrompt by cross-entropy alone
promptsrc   the text side of PromptSRC (Khattak et al. 2023): cross-entropy, self-regularization of features (weight 25)
            and predictions (weight 1), Gaussian-weighted average over the epochs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attri.train.config import FROZEN_TEMPLATES, PromptConfig, TrainConfig
from attri.train.data.dataset import Dataset, LabelledImage
from attri.train.fitting import frozen_text, label_tokens, new_trainer
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.anchors import Anchors
from attri.train.training.features import FeatureCache, Features
from attri.train.training.predict import predict
from attri.train.training.progress import Progress
from attri.train.training.trainer import Trainer
from benchmarks.accuracy.methods.task import Classifier, Task


def attriprompt(task: Task) -> Classifier:
    """AttriPrompt with attri-train's defaults."""
    return train(task, task.model.config)


def static(task: Task) -> Classifier:
    """Static prompts of AttriPrompt's length with AttriPrompt's losses."""
    return train(task, task.model.config.static())


def deep(task: Task) -> Classifier:
    """Static prompts by cross-entropy alone."""
    weights: dict[str, Any] = {
        f"weight_{term}": 0.0 for term in ("instance", "text", "logits", "retrieval", "diversity")
    }
    return train(task, task.model.config.static(), **weights)


def attri_ce(task: Task) -> Classifier:
    """AttriPrompt by cross-entropy alone; its keys need the terms about retrieval."""
    return train(task, task.model.config, weight_instance=0.0, weight_text=0.0, weight_logits=0.0)


def promptsrc(task: Task) -> Classifier:
    """PromptSRC's text side."""
    weights: dict[str, Any] = {"weight_instance": 0.0, "weight_text": 25.0, "weight_logits": 1.0}
    return train(task, task.model.config.static(), average=True, **weights)


class Cached(FeatureCache):
    """Features that are known already, for a trainer that would compute them."""

    def __init__(self, data: Features) -> None:
        super().__init__(Progress(quiet=True))
        self.data = data

    def get(self, name: str, model: AttriPrompt, images: list[LabelledImage], **how: int) -> Features:
        """The training images, whatever is asked for."""
        return self.data


def trained(
    task: Task,
    prompt: PromptConfig,
    on_epoch: Callable[[Trainer], object] = lambda trainer: None,
    words: Sequence[str] = (),
    **changed: Any,
) -> AttriPrompt:
    """Train as attri-train does.

    Args:
        task: what is learned.
        prompt: its shape.
        on_epoch: is called after each epoch.
        words: classes without images, after those of the task.
        changed: fields of TrainConfig.
    """
    config = TrainConfig(
        template=task.template,
        frozen_templates=(task.template, *FROZEN_TEMPLATES[1:]),
        epochs=task.epochs,
        augmentations=task.train.features.shape[1],
        precision=task.precision,
        seed=task.seed,
    )
    dataset = Dataset(Path(), "task", task.classes, [], [], [], task.template)
    config = replace(config, **changed)
    trainer = new_trainer(task.model.backbone, dataset, prompt, config, Cached(task.train))
    if words:
        model, classes = trainer.model, [*task.classes, *words]
        anchors = Anchors(frozen_text(model, classes, config.frozen_templates))
        trainer = Trainer(model, label_tokens(model, classes, config.template), anchors, trainer.data, config)
    trainer.run(lambda record: None, on_epoch)
    return trainer.model


def train(task: Task, prompt: PromptConfig, **changed: Any) -> Classifier:
    """The classifier of `trained`."""
    model = trained(task, prompt, **changed)
    return lambda data, classes: predict(model, task.labels(classes), data)
