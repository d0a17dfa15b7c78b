"""The training loop: cached features in, a prompt out. Resumable after any step and deterministic for a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attri.runtime.errors import FailedError
from attri.runtime.text.reader import Tokens
from attri.train.config import TrainConfig, trainable_parts
from attri.train.model import losses
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training import averaging, checkpoint, distributed
from attri.train.training.anchors import Anchors
from attri.train.training.features import Features
from attri.train.training.objective import Objective


@dataclass
class Trainer:
    """One training run in memory.

    Args:
        model: its pool is trained in place.
        labels: token ids of the prompts of all classes.
        anchors: text features that self-regularization holds on to.
        data: cached views of the training images.
        config: epochs, learning rate, loss weights.
        epoch: epochs completed.
        steps: steps completed of the next epoch.
        sums: sums of those steps' records.
        history: records of the completed epochs.
    """

    model: AttriPrompt
    labels: Tokens
    anchors: Anchors
    data: Features
    config: TrainConfig
    epoch: int = 0
    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        pool, config = self.model.pool, self.config
        # Parameters that no loss term reaches get no gradient, which DistributedDataParallel must know beforehand.
        keys, tokens = trainable_parts(self.model.config, config)
        if not keys:
            pool.keys.requires_grad_(False)
        if not tokens:
            for parameter in (pool.tokens, pool.static):
                parameter.requires_grad_(False)
        self.objective: nn.Module = Objective(self.model, self.labels, self.anchors, config)
        if distributed.size() > 1:
            self.objective = DistributedDataParallel(self.objective)
        groups = [
            {"params": [pool.tokens, pool.static], "weight_decay": config.weight_decay},
            {"params": [pool.keys], "weight_decay": 0.0},
        ]
        if config.optimizer == "adamw":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=config.lr)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
        self.average: averaging.PromptAverage | None = None
        if config.average:
            weights = averaging.weights(config.epochs, config.average_mean, config.average_std)
            self.average = averaging.PromptAverage(pool, weights)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.data) / self.config.batch_size)

    def run(self, on_step: Callable[[dict[str, float]], object], on_epoch: Callable[[Trainer], object]) -> None:
        """Train the remaining steps.

        Either callback may raise to stop: `tensors` and `progress_state` then hold all that is needed to resume.

        Args:
            on_step: called after each step with its record.
            on_epoch: called after each epoch, when its record is in `history`.

        Raises:
            FailedError: a loss term is NaN or infinite; it, the epoch and the step are named.
        """
        while self.epoch < self.config.epochs:
            order, views = self.shuffle(self.epoch)
            for rows in torch.split(order, self.config.batch_size)[self.steps :]:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate(self.steps)
                record = self.step(rows, views[rows])
                self.steps += 1
                self.sums = {name: self.sums.get(name, 0.0) + value for name, value in record.items()}
                on_step(record)
            self.end_epoch()
            on_epoch(self)
        if self.average:
            self.model.pool.load_state_dict(self.average.sums)

    def end_epoch(self) -> None:
        """Record the epoch's means and add its prompts to the average."""
        mean = {name: value / self.steps for name, value in self.sums.items()}
        self.history.append({"epoch": self.epoch + 1, **mean, "lr": self.rate(self.steps - 1)})
        self.epoch, self.steps, self.sums = self.epoch + 1, 0, {}
        if self.average:
            self.average.add(self.model.pool, self.epoch)

    def shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the order and the view of every image in an epoch, a function of seed and epoch alone."""
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + epoch)
        order = torch.randperm(len(self.data), generator=generator)
        return order, torch.randint(self.data.features.shape[1], (len(self.data),), generator=generator)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step of this epoch: linear warm-up, then cosine to 0."""
        total = self.config.epochs * self.steps_per_epoch
        warm = max(1, round(self.config.warmup * total))
        number = self.epoch * self.steps_per_epoch + step
        done = (number - warm) / max(1, total - warm)
        return self.config.lr * ((number + 1) / warm if number < warm else 0.5 * (1 + math.cos(math.pi * done)))

    def step(self, rows: Tensor, views: Tensor) -> dict[str, float]:
        """Take one step on images `rows` [B] in `views` [B], split among the processes.

        Returns:
            The loss, its weighted terms and the accuracy.
        """
        shares = torch.tensor_split(torch.arange(len(rows)), distributed.size())
        mine, device = shares[distributed.rank()], self.anchors.frozen.device
        own = rows[mine] if len(mine) else rows[:1], views[mine] if len(mine) else views[:1]
        features, centres = (
            self.data.features[own].to(device),
            self.data.centres[own].to(device),
        )  # [B, D], [B, L, K, D]
        targets = self.data.targets[own[0]].to(device)
        terms, logits = self.objective(features, centres, targets, [len(share) for share in shares])
        right = (logits.argmax(-1) == targets)[: len(mine)].sum()
        record = self._mean_over_ranks({**terms, "accuracy": right * distributed.size() / len(rows)})
        broken = losses.first_non_finite(record)
        if broken:
            where = f"epoch {self.epoch + 1}, step {self.steps + 1}"
            raise FailedError(f"the {broken} loss is not finite at {where}: lower `lr`")
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        self.optimizer.step()
        total = sum(float(record[name]) for name in terms)
        return {"loss": total, **{name: float(value) for name, value in record.items()}}

    def _mean_over_ranks(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return every term's mean over processes, its value for the whole batch."""
        values = torch.stack([value.detach().double() for value in terms.values()]).cpu()
        return dict(zip(terms, distributed.mean(values), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint.

        Raises:
            FailedError: one is NaN or infinite, which the loss may not show yet; it is named.
        """
        averages = self.average.tensors() if self.average else {}
        tensors = {**self.model.pool.state_dict(), **averages, **checkpoint.optimizer_tensors(self.optimizer)}
        broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
        if broken:
            raise FailedError(f"{broken} is not finite after epoch {self.epoch}, step {self.steps}: lower `lr`")
        return tensors

    def progress_state(self) -> dict[str, Any]:
        """Return epoch, step and records as JSON values, to resume from."""
        threads = torch.get_num_threads()
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "sums": self.sums,
            "history": self.history,
            "threads": threads,
        }

    def restore(self, tensors: dict[str, Tensor], progress_state: dict[str, Any]) -> None:
        """Load what `tensors` and `progress_state` returned."""
        pool = {name: value for name, value in tensors.items() if "." not in name}
        self.model.pool.load_state_dict(pool)
        checkpoint.restore_optimizer(self.optimizer, tensors)
        if self.average:
            self.average.restore(tensors)
        self.epoch, self.steps = progress_state["epoch"], progress_state["steps"]
        self.sums, self.history = dict(progress_state["sums"]), list(progress_state["history"])
