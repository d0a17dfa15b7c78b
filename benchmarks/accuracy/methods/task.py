"""What a method is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attri.runtime.text.reader import Tokens
from attri.train.config import Precision
from attri.train.fitting import frozen_text, label_tokens
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.features import Features

Classifier = Callable[[Features, list[str]], Tensor]  # images and the classes to tell apart -> logits [I, C]


@dataclass(frozen=True)
class Task:
    """One training: the same for every method.

    Attributes:
        model: the frozen backbone with a pool that nobody trained; methods take its text tower and its logit scale.
        classes: names of the training images' classes.
        template: the label goes into {}.
        train: views of the training images; targets are numbers of `classes`.
        val: validation images of these classes, for what has to be searched; None where the dataset has none.
        epochs: passes over the training images.
        precision: of the text encoder's products in training, "fp32" or "bf16".
        seed: of first values and order.
    """

    model: AttriPrompt
    classes: list[str]
    template: str
    train: Features
    val: Features | None
    epochs: int
    precision: Precision
    seed: int

    @property
    def scale(self) -> float:
        """The factor of the cosine."""
        return self.model.backbone.logit_scale

    def labels(self, classes: list[str]) -> Tokens:
        """Token ids of classes in the template."""
        return label_tokens(self.model, classes, self.template)

    def frozen(self, classes: list[str], templates: tuple[str, ...]) -> Tensor:
        """Text features without prompts, averaged over templates. -> unit [C, D]."""
        return frozen_text(self.model, classes, templates)


def by_text(task: Task, encode: Callable[[list[str]], Tensor]) -> Classifier:
    """A classifier of text features that are the same for every image."""

    @torch.no_grad()
    def classify(data: Features, classes: list[str]) -> Tensor:
        return task.scale * data.features[:, 0] @ encode(classes).T

    return classify
