"""The options of attri-train as one record, and the configs that they make."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from attri.runtime.errors import UsageError
from attri.train.config import (
    FROZEN_TEMPLATES,
    INCREMENTAL,
    Device,
    KmeansInit,
    Method,
    Optimizer,
    Precision,
    PromptConfig,
    Protocol,
    Term,
    TrainConfig,
    has_own_weights,
)

EPOCHS = 40  # passes over the training images, where nobody says (our choice)
# What does not go with --from: the prompt has a shape and templates, and nothing else is compared.
_NOT_FROM = (
    *("shots", "template", "frozen_template", "ensemble", "clusters", "pool", "pool_size", "topk", "prompt_length"),
    *("static_tokens", "depth", "sources", "learning_curve"),
    *("protocol", "target", "datasets", "seeds", "method"),
)


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says, a field for each option under its name there (see `attri-train --help`)."""

    data: Path | None
    start: Path | None
    add: tuple[Path, ...]
    test: Path | None
    model: str
    pretrained: str | None
    shots: tuple[int, ...]
    epochs: int | None
    batch_size: int
    optimizer: Optimizer
    lr: float
    augmentations: int
    template: str | None
    frozen_template: tuple[str, ...]
    ensemble: bool
    clusters: int
    lloyd_steps: int
    kmeans_init: KmeansInit
    pool: Literal["shared", "per-block"]
    pool_size: int
    topk: int
    prompt_length: int
    static_tokens: int
    depth: int | None
    sources: str | None
    loss_weight: tuple[tuple[Term, float], ...]
    average: bool
    learning_curve: bool
    precision: Precision
    seed: int
    protocol: Protocol | None
    target: tuple[Path, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    method: tuple[Method, ...]
    output: Path | None
    device: Device
    tensorboard: bool

    def check(self, given: Collection[str]) -> None:
        """Refuse options that do not go together, before anything heavy is imported.

        Args:
            given: names of the options that the command line holds.

        Raises:
            UsageError: two options contradict each other, or one lacks another.
        """
        self._check_start(given)
        for name in ("target", "datasets", "seeds"):
            if name in given and not self.protocol:
                raise UsageError(f"--{name} goes with --protocol")
        if not self.protocol and (len(self.method) > 1 or "zero-shot" in self.method):
            raise UsageError("without --protocol one method is trained: --method attriprompt or --method static")
        if not self.protocol and self.method == ("static",) and (pool := {"pool_size", "pool"} & set(given)):
            raise UsageError(f"--method static has no pool: leave out --{min(pool).replace('_', '-')}")
        if self.datasets and self.target:
            raise UsageError("--datasets says what is scored: leave out --target")
        if self.datasets and not self.data:
            raise UsageError("--datasets needs --data, the folder that holds them")
        for name in ("seed", "tensorboard", "learning_curve"):
            if name in given and self.protocol:
                says = f"--{name.replace('_', '-')} does not go with --protocol"
                raise UsageError(says + (": say --seeds" if name == "seed" else ""))
        if len(self.shots) > 1 and self.protocol != "few-shot":
            raise UsageError("several --shots go with --protocol few-shot")
        if self.ensemble and self.frozen_template:
            raise UsageError("--ensemble and --frozen-template both say which frozen features to take: choose one")
        if not self.start and not has_own_weights(self.model) and not self.pretrained:
            raise UsageError(f"--model {self.model} needs --pretrained: an untrained CLIP has nothing to prompt")
        if self.tensorboard:
            import tensorboard  # noqa: F401 (missing? then better now than after encoding)

    def _check_start(self, given: Collection[str]) -> None:
        """Refuse what does not go with --from, or without it.

        Raises:
            UsageError: names it.
        """
        if not self.start:
            if self.add or self.test:
                raise UsageError(f"--{'add' if self.add else 'test'} goes with --from, the prompt to start at")
            return
        if not self.add:
            raise UsageError("--from needs --add, the labelled images that are learned in addition")
        if refused := [name for name in _NOT_FROM if name in given]:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
            raise UsageError(f"with --from the prompt's own settings are kept: leave out {named}")

    def retrieval_of(self, given: Collection[str]) -> dict[str, Any]:
        """How the prompt of --from retrieves, as far as the command line says."""
        return {name: getattr(self, name) for name in ("lloyd_steps", "kmeans_init") if name in given}

    @property
    def single_shots(self) -> int | None:
        """Training images per class of a single training, or None for all."""
        return self.shots[0] if self.shots else None

    def prompt_config(self) -> PromptConfig:
        """The shape of the prompt.

        Raises:
            UsageError: a value is out of range.
        """
        prompt = PromptConfig(
            clusters=self.clusters,
            lloyd_steps=self.lloyd_steps,
            kmeans_init=self.kmeans_init,
            pool_size=self.pool_size,
            topk=self.topk,
            prompt_length=self.prompt_length,
            static_tokens=self.static_tokens,
            depth=self.depth,
            sources=None if self.sources is None else as_numbers(self.sources),
            shared=self.pool == "shared",
        )
        return prompt.static() if self.method == ("static",) and not self.protocol else prompt

    def train_config(self, dataset_template: str) -> TrainConfig:
        """How the prompt is trained.

        Args:
            dataset_template: the template of the dataset, used where --template is not given.

        Raises:
            UsageError: a value is out of range.
        """
        template = self.template or dataset_template
        return TrainConfig(
            template=template,
            frozen_templates=self.frozen_template or self._frozen_templates(template),
            epochs=EPOCHS if self.epochs is None else self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            augmentations=self.augmentations,
            shots=self.single_shots,
            average=self.average,
            precision=self.precision,
            seed=self.seed,
            **{f"weight_{term}": weight for term, weight in self.loss_weight},
        )

    def incremental_config(self, template: str, frozen_templates: tuple[str, ...]) -> TrainConfig:
        """How a prompt is trained on from one that is in use, whose templates these are.

        Raises:
            UsageError: a value is out of range.
        """
        own = {} if self.epochs is None else {"epochs": self.epochs}
        weights = {f"weight_{term}": weight for term, weight in self.loss_weight}
        return replace(self.train_config(template), frozen_templates=frozen_templates, **INCREMENTAL | own | weights)

    def _frozen_templates(self, template: str) -> tuple[str, ...]:
        """The templates whose frozen features are averaged where --frozen-template is not given."""
        if not self.ensemble:
            return (template, *FROZEN_TEMPLATES[1:])
        from attri.train.data.templates import DEFAULT, ENSEMBLE

        return ENSEMBLE if template == DEFAULT else (*ENSEMBLE, template)


def as_numbers(text: str) -> tuple[int, ...]:
    """Read "1,2,2" as numbers.

    Raises:
        UsageError: it is something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"sources is {text!r}: give numbers with commas between, such as 1,2,3,3") from error
