"""Run the trainings that are missing, one cell each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from attri.train.config import Precision, PromptConfig
from attri.train.data.dataset import Dataset
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import Backbone
from benchmarks.accuracy import cells, protocols
from benchmarks.accuracy.datasets import Source
from benchmarks.accuracy.features import FeatureStore
from benchmarks.accuracy.methods import METHODS, Task

VERSION = 1  # of what the cells hold: a change that makes them wrong raises it


@dataclass(frozen=True)
class Plan:
    """One cell to fill."""

    protocol: str
    dataset: str
    method: str
    shots: int
    seed: int

    def file(self, folder: Path) -> Path:
        """Of the cell."""
        return folder / self.protocol / self.dataset / f"{self.method}-{self.shots}shots-seed{self.seed}.npz"


def plans(
    chosen: tuple[str, ...],
    datasets: list[str],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    few_shots: tuple[int, ...] = protocols.FEW_SHOTS,
) -> Iterator[Plan]:
    """All cells, seed by seed, so that a comparison is whole early; what depends on no seed and no shots once."""
    for protocol in chosen:
        for shots in few_shots if protocol == "few-shot" else (protocols.SHOTS,):
            for dataset in datasets:
                for seed in seeds:
                    for name in methods:
                        if METHODS[name].seeded or (seed == seeds[0] and shots == protocols.SHOTS):
                            yield Plan(protocol, dataset, name, shots, seed)


@dataclass
class Bench:
    """What all cells share.

    Attributes:
        folder: of the cells and the features, one backbone each.
        backbone: frozen.
        sources: the datasets by name.
        epochs: passes over the training images.
        views: augmented views of each.
        precision: of the text encoder's products in training.
        say: called with a line for each cell.
    """

    folder: Path
    backbone: Backbone
    sources: dict[str, Callable[[], Source]]
    epochs: int
    views: int
    precision: Precision
    say: Callable[[str], object] = print
    model: AttriPrompt = field(init=False)
    store: FeatureStore = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.folder / self.backbone.sha256[:12]
        self.model = AttriPrompt(self.backbone, PromptConfig())
        self.store = FeatureStore(self.folder / "features", self.model, self.say)
        self.sources = {name: cache(read) for name, read in self.sources.items()}

    def about(self, plan: Plan, train: Dataset, parts: dict[str, Dataset]) -> dict[str, Any]:
        """Everything that a cell depends on."""
        images = {name: part.fingerprint() for name, part in parts.items()}
        how = {"epochs": self.epochs, "views": self.views, "precision": self.precision, "version": VERSION}
        if not METHODS[plan.method].seeded:
            how = {"version": VERSION}
        return asdict(plan) | how | {"backbone": self.backbone.sha256, "train": train.fingerprint(), "parts": images}

    def fill(self, plan: Plan) -> None:
        """Train, score and save one cell, unless it is there."""
        source = self.sources[plan.dataset]()
        train, parts = protocols.split(plan.protocol, source, plan.shots, plan.seed, self.sources)
        method = METHODS[plan.method]
        if not method.names_classes:
            parts = {name: part for name, part in parts.items() if part.classes == train.classes}
        about, file = self.about(plan, train, parts), plan.file(self.folder)
        if cells.done(file, about):
            return
        features = self.store.get(train.train, self.views), self.store.get(train.val) if train.val else None
        scored = {name: (part.classes, self.store.get(part.test)) for name, part in parts.items()}
        task = Task(self.model, train.classes, train.template, *features, self.epochs, self.precision, plan.seed)
        start = time.process_time()
        classify = method.fit(task)
        seconds = time.process_time() - start
        found = {}
        for name, (classes, data) in scored.items():
            with torch.no_grad():
                found[name] = cells.Part(classify(data, classes).float().numpy(), data.targets.numpy())
        cells.save(file, cells.Cell(about, found, seconds))
        known = {name: part for name, part in found.items() if name != "unknown"}
        shares = ", ".join(f"{name} {100 * part.correct.mean():.1f}" for name, part in known.items())
        self.say(f"{file.relative_to(self.folder)}: {shares} ({seconds:.0f} s)")
