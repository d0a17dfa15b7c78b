"""Training: cached features in, a prompt out. Every epoch is a checkpoint, and the same seed gives the same prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attri.runtime.errors import FailedError
from attri.train import losses
from attri.train.config import TrainConfig
from attri.train.features import Features
from attri.train.model import AttriPrompt, EmbeddedLabels


@dataclass
class Trainer:
    """One training run in memory.

    Args:
        model: its pool is trained in place.
        labels: the embedded prompts of all classes.
        frozen: plain text features, averaged over templates [C, D].
        data: cached views of the training pictures.
        config: how long, how fast, with which weights.
    """

    model: AttriPrompt
    labels: EmbeddedLabels
    frozen: Tensor
    data: Features
    config: TrainConfig
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        pool, config = self.model.pool, self.config
        groups = [
            {"params": [pool.tokens, pool.static], "weight_decay": config.weight_decay},
            {"params": [pool.keys], "weight_decay": 0.0},
        ]
        if config.optimizer == "adamw":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=config.lr)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.data) / self.config.batch)

    def run(self, on_step: Callable[[dict[str, float]], object], on_epoch: Callable[[Trainer], object]) -> None:
        """Train the epochs that are left; `on_epoch` comes after each, when its record is in `history`.

        Raises:
            FailedError: a loss term is NaN or infinite; it, the epoch and the step are named.
        """
        while self.epoch < self.config.epochs:
            order, views = self.shuffle(self.epoch)
            records = []
            for step, rows in enumerate(torch.split(order, self.config.batch)):
                self.set_rate(self.epoch * self.steps_per_epoch + step)
                records.append(self.step(rows, views[rows], step))
                on_step(records[-1])
            mean = {name: sum(r[name] for r in records) / len(records) for name in records[0]}
            self.epoch += 1
            self.history.append({"epoch": self.epoch, **mean, "lr": self.optimizer.param_groups[0]["lr"]})
            on_epoch(self)

    def shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Order and view of every picture in that epoch; a function of seed and epoch, so that a resumed run agrees."""
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + epoch)
        order = torch.randperm(len(self.data), generator=generator)
        return order, torch.randint(self.data.features.shape[1], (len(self.data),), generator=generator)

    def set_rate(self, step: int) -> None:
        """Linear warm-up, then a cosine to zero."""
        total = self.config.epochs * self.steps_per_epoch
        warm = max(1, round(self.config.warmup * total))
        done = (step - warm) / max(1, total - warm)
        factor = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor

    def step(self, rows: Tensor, views: Tensor, number: int) -> dict[str, float]:
        """One batch of pictures `rows` [B] in `views` [B]; returns the terms of the loss and the accuracy."""
        device = self.frozen.device
        features = self.data.features[rows, views].to(device)  # [B, D]
        centres = self.data.centres[rows, views].to(device)  # [B, L, K, D]
        targets = self.data.targets[rows].to(device)
        text = self.model.encode_text(self.labels, self.model.pool.retrieve(centres))  # [B, C, D]
        logits = self.model.logits(features, text)
        terms = self.terms(features, centres, targets, text, logits)
        broken = losses.first_broken(terms)
        if broken:
            where = f"epoch {self.epoch + 1}, step {number + 1}"
            raise FailedError(f"the {broken} loss is not finite at {where}: lower --lr")
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        accuracy = float((logits.argmax(-1) == targets).float().mean())
        return {"loss": float(loss.detach()), "accuracy": accuracy, **{k: float(v.detach()) for k, v in terms.items()}}

    def terms(
        self, features: Tensor, centres: Tensor, targets: Tensor, text: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss, each a scalar."""
        config, pool = self.config, self.model.pool
        plain = self.model.backbone.logit_scale * features @ self.frozen.T  # [B, C]
        terms = {
            "class": losses.class_stream(logits, targets),
            "text": config.weight_text * losses.text_distance(text, self.frozen),
            "logits": config.weight_logits * losses.prediction_distance(logits, plain),
        }
        if pool.keys.shape[1]:
            keys = pool.keys_of_blocks()
            terms["retrieval"] = config.weight_retrieval * losses.retrieval_distance(centres, keys, pool.topk)
            terms["diversity"] = config.weight_diversity * losses.key_crowding(keys)
        return terms


@torch.no_grad()
def predict(model: AttriPrompt, labels: EmbeddedLabels, data: Features, batch: int = 64) -> Tensor:
    """Logits of every picture's first view, [I, C]. Images with equal entries share one run of the text encoder."""
    device = labels.stem.device
    retrieved = model.pool.retrieve(data.centres[:, 0].to(device))  # [I, L, M]
    # A column of zeros in front, because `unique` does not take the empty rows of a model without a pool.
    padded = torch.nn.functional.pad(retrieved.flatten(1), (1, 0))
    unique, inverse = torch.unique(padded, dim=0, return_inverse=True)
    unique = unique[:, 1:].reshape(len(unique), *retrieved.shape[1:])  # [U, L, M]
    text = torch.cat([model.encode_text(labels, chunk) for chunk in torch.split(unique, batch)])  # [U, C, D]
    pairs = zip(torch.split(data.features[:, 0].to(device), batch), torch.split(inverse, batch), strict=True)
    return torch.cat([model.logits(features, text[rows]) for features, rows in pairs])


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Share of pictures whose best class is theirs."""
    return float((logits.argmax(-1).cpu() == targets).double().mean())
