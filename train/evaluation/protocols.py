"""Benchmark protocols: train and score all methods in one harness, over seeds.

    base-to-novel           train on the first half of the sorted classes, score each half among its own classes
    cross-dataset           train on one dataset, score other datasets with their own classes and template
    domain-generalization   train on one dataset, score other images of the same classes
    few-shot                train with 1, 2, 4, ... images per class, score all classes

Methods share backbone, images, views, optimizer and losses, and differ in their prompts only:

    zero-shot     the frozen CLIP and the template
    static        deep text prompts, as many tokens per block as AttriPrompt brings, the same for every image
    attriprompt   the prompt as configured

Every training has its own run folder below the protocol's, so that a stopped protocol can be resumed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attri.runtime.errors import UsageError
from attri.train.config import METHODS, Method, PromptConfig, Protocol, TrainConfig, trainable_parts
from attri.train.data.read import Dataset
from attri.train.evaluation import result_tables
from attri.train.fitting import fit, label_tokens, load_model, restore_threads, versions
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import Backbone
from attri.train.training import checkpoint, distributed
from attri.train.training.features import FeatureCache, Features
from attri.train.training.predict import accuracy, predict, predict_plain
from attri.train.training.progress import Progress
from attri.train.training.run_folder import RESULTS, claim

SHOTS = 16  # images per class where nothing else is asked for, as published
FEW_SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class ProtocolSpec:
    """What to evaluate.

    Attributes:
        protocol: one of `attri.train.config.PROTOCOLS`.
        read: returns the dataset to train on for a seed and a number of shots.
        targets: other datasets, for cross-dataset and domain-generalization; only their test images are used.
        methods: some of `attri.train.config.METHODS`.
        seeds: a training for each.
        shots: training images per class; several for few-shot.
    """

    protocol: Protocol
    read: Callable[[int, int], Dataset]
    targets: tuple[Dataset, ...] = ()
    methods: tuple[Method, ...] = METHODS
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[int, ...] = (SHOTS,)

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds or not self.shots:
            raise UsageError("a protocol needs a method, a seed and a number of shots")
        if len(self.shots) > 1 and self.protocol != "few-shot":
            raise UsageError(f"{self.protocol} takes one number of shots: several are for few-shot")
        wants_targets = self.protocol in ("cross-dataset", "domain-generalization")
        if wants_targets != bool(self.targets):
            what = "needs target datasets to score" if wants_targets else "takes no target datasets"
            raise UsageError(f"{self.protocol} {what}")

    def trainings(self) -> Iterator[tuple[int, int]]:
        """Yield seed and shots of every training of a method."""
        return ((seed, shots) for shots in self.shots for seed in self.seeds)

    def parts(self, dataset: Dataset) -> tuple[Dataset, list[tuple[str, Dataset]]]:
        """Return the dataset of one training, and the datasets it is scored on by table column.

        Raises:
            UsageError: the datasets do not fit the protocol.
        """
        if self.protocol == "base-to-novel":
            if len(dataset.classes) < 4:
                raise UsageError(f"base-to-novel needs 4 or more classes, {dataset.root} has {len(dataset.classes)}")
            base, novel = dataset.halves()
            return base, [("base", base), ("novel", novel)]
        if self.protocol == "few-shot":
            return dataset, [("test", dataset)]
        if self.protocol == "domain-generalization":
            for target in self.targets:
                unknown = sorted(set(target.classes) - set(dataset.classes))
                if unknown:
                    raise UsageError(
                        f"{target.root} has classes that {dataset.name} lacks ({unknown[0]}): these are not domains"
                    )
        return dataset, columns([dataset, *self.targets])


def columns(datasets: list[Dataset]) -> list[tuple[str, Dataset]]:
    """Give each dataset a unique column name; equal names are prefixed by their folder.

    Raises:
        UsageError: the names are still equal.
    """
    called = [dataset.name for dataset in datasets]
    names = [
        f"{dataset.root.parent.name}/{dataset.name}" if called.count(dataset.name) > 1 else dataset.name
        for dataset in datasets
    ]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two datasets are called {name}: name each once, or rename a folder")
    return list(zip(names, datasets, strict=True))


def run(
    spec: ProtocolSpec,
    backbone: Backbone,
    prompt: PromptConfig,
    config: TrainConfig,
    output: Path | str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train and score everything in `spec`; write results.json and results.md.

    Returns:
        The protocol's folder.

    Raises:
        UsageError: the datasets do not fit the protocol; and see `fit`.
    """
    store = FeatureCache(progress or Progress(quiet=True))
    first = spec.read(spec.seeds[0], spec.shots[0])
    for column, dataset in spec.parts(first)[1]:
        if not dataset.test:
            raise UsageError(f"{dataset.root} has no test images to score {column} on")
    for method in set(spec.methods) - {"zero-shot"}:
        trainable_parts(method_configs(prompt)[method], config)
    meta = describe(spec, backbone, prompt, config, first)
    with claim(output, f"{spec.protocol}-{backbone.file_name}-{first.name}", meta) as folder:
        restore_threads(folder.progress_state)
        folder.save_state({}, {"threads": torch.get_num_threads()})
        scores = [
            record
            for seed, shots in spec.trainings()
            for record in train_and_score(
                spec, backbone, prompt, dataclasses.replace(config, seed=seed, shots=shots), folder.path, store
            )
        ]
        results = {"protocol": spec.protocol, "scores": scores, "versions": versions(), "run": meta}
        folder.write("results.md", result_tables.markdown(results))
        folder.finish(results)
        return folder.path


def train_and_score(
    spec: ProtocolSpec, backbone: Backbone, prompt: PromptConfig, config: TrainConfig, folder: Path, store: FeatureCache
) -> Iterator[dict[str, Any]]:
    """Train and score one seed and number of shots; yields a record for every method and column."""
    assert config.shots is not None
    source, scored = spec.parts(spec.read(config.seed, config.shots))
    frozen = AttriPrompt(backbone, prompt).to(backbone.token_embedding.device)
    images = {column: encode(column, frozen, dataset, store) for column, dataset in scored}
    for method in spec.methods:
        name = f"{method}-{config.shots}shots-seed{config.seed}"
        if method == "zero-shot":
            model = frozen
        else:
            model = trained(folder / name, source, backbone, method_configs(prompt)[method], config, store)
        for column, dataset in scored:
            template = dataset.template if spec.protocol == "cross-dataset" else config.template
            data = images[column]
            labels = label_tokens(model, dataset.classes, template)
            logits = (predict_plain if method == "zero-shot" else predict)(model, labels, data)
            yield {
                "method": method,
                "seed": config.seed,
                "shots": config.shots,
                "column": column,
                "accuracy": accuracy(logits, data.targets),
                "images": len(data),
                "classes": len(dataset.classes),
            }


def encode(column: str, model: AttriPrompt, dataset: Dataset, store: FeatureCache) -> Features:
    """Encode the test images, before anything is trained.

    Raises:
        UsageError: none of them can be read.
    """
    data = store.get(column, model, dataset.test)
    if not len(data):
        raise UsageError(f"no test image of {dataset.root} can be read: there is nothing to score {column} on")
    return data


def trained(
    folder: Path, dataset: Dataset, backbone: Backbone, prompt: PromptConfig, config: TrainConfig, store: FeatureCache
) -> AttriPrompt:
    """Return the model of the run in `folder`, trained first if there is none."""
    if not distributed.on_rank_zero((folder / RESULTS).exists):
        fit(dataset, backbone, prompt, config, folder, store, latest=False)
    return load_model(distributed.on_rank_zero(lambda: checkpoint.load_run(folder)), backbone)


def method_configs(prompt: PromptConfig) -> dict[str, PromptConfig]:
    """Return the prompt config of each trained method."""
    return {"static": prompt.static(), "attriprompt": prompt}


def describe(
    spec: ProtocolSpec, backbone: Backbone, prompt: PromptConfig, config: TrainConfig, dataset: Dataset
) -> dict[str, Any]:
    """Return the metadata of a protocol as JSON values; equal metadata means equal results."""
    identity = {"model": backbone.name, "pretrained": backbone.tag, "sha256": backbone.sha256}
    meta = checkpoint.describe(prompt, config, identity, dataset)
    choices = {"protocol": spec.protocol, "methods": spec.methods, "seeds": spec.seeds, "shots": spec.shots}
    targets = {"targets": [[str(target.root), target.fingerprint()] for target in spec.targets]}
    whole: dict[str, Any] = json.loads(json.dumps(meta | choices | targets))
    return whole
