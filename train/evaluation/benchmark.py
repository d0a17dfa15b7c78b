"""A protocol over the datasets that papers report: the 11 of CoOp and ImageNet's 4 variants, those that are there.

base-to-novel, few-shot   every dataset by itself, each with its own template, and the average over them
cross-dataset             train on ImageNet, score the ten others
domain-generalization     train on ImageNet, score its variants

Each dataset has its own folder below the benchmark's. What is finished there is read and not run again, so that the
same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.train.config import Method, PromptConfig, Protocol, TrainConfig
from attri.train.data.coop import recognise
from attri.train.data.read import Dataset, read_data, read_target
from attri.train.evaluation import protocols, result_tables
from attri.train.evaluation.protocols import ProtocolSpec
from attri.train.evaluation.published import published
from attri.train.model.backbone import Backbone
from attri.train.training import distributed
from attri.train.training.progress import Progress
from attri.train.training.run_folder import RESULTS, write_file

SOURCE = "ImageNet"
ELEVEN = (
    SOURCE,
    "Caltech101",
    "OxfordPets",
    "StanfordCars",
    "OxfordFlowers",
    "Food101",
    "FGVCAircraft",
    "SUN397",
    "DescribableTextures",
    "EuroSAT",
    "UCF101",
)  # in the order of the papers' tables
VARIANTS = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")
TRANSFERS: dict[Protocol, tuple[str, ...]] = {"cross-dataset": ELEVEN[1:], "domain-generalization": VARIANTS}


@dataclass(frozen=True)
class Benchmark:
    """What to run.

    Attributes:
        protocol: one of `attri.train.config.PROTOCOLS`.
        folders: of the datasets that are there, by name.
        missing: names of those that papers have beside them.
        methods: to compare.
        seeds: a training for each.
        shots: training images per class; several for few-shot.
    """

    protocol: Protocol
    folders: dict[str, Path]
    missing: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    shots: tuple[int, ...]

    def specs(self) -> dict[str, ProtocolSpec]:
        """What is run by itself, by the name of the dataset that is trained on."""
        targets = TRANSFERS.get(self.protocol)
        sources = self.folders if targets is None else {SOURCE: self.folders[SOURCE]}
        scored = tuple(read_target(folder) for name, folder in self.folders.items() if name in (targets or ()))

        def spec(folder: Path) -> ProtocolSpec:
            def read(seed: int, shots: int) -> Dataset:
                return read_data(folder, shots=shots, seed=seed)

            return ProtocolSpec(self.protocol, read, scored, self.methods, self.seeds, self.shots)

        return {name: spec(folder) for name, folder in sources.items()}


def find(root: Path, protocol: Protocol, names: Sequence[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Find datasets in the folders of `root`, whatever those are called.

    Args:
        root: holds a folder per dataset, in CoOp's layout.
        protocol: says which datasets belong to it.
        names: those that are wanted; none means all that are there.

    Returns:
        Folders by name in the order of the papers, and the names of those that are missing.

    Raises:
        UsageError: a name is not one of the protocol's datasets, a dataset that was named or that the protocol needs is
            not there, or two folders hold the same one.
    """
    known = ELEVEN if protocol not in TRANSFERS else (SOURCE, *TRANSFERS[protocol])
    if odd := [name for name in names if name not in known]:
        raise UsageError(f"{odd[0]} is none of the datasets of {protocol}: {', '.join(known)}")
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; it must hold the folders of the datasets")
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for layout in recognise(folder):
            if layout.name in found:
                raise UsageError(f"{found[layout.name]} and {folder} both hold {layout.name}: move one away")
            found[layout.name] = folder
    needed = [*names, *([SOURCE] if protocol in TRANSFERS else [])]
    if absent := [name for name in needed if name not in found]:
        raise UsageError(f"{root} has no folder in CoOp's layout of {absent[0]}")
    chosen = [name for name in known if name in found and (not names or name in needed)]
    if len(chosen) < (2 if protocol in TRANSFERS else 1):
        raise UsageError(f"{root} holds none of the datasets to score, in CoOp's layout: {', '.join(known)}")
    return {name: found[name] for name in chosen}, tuple(name for name in known if name not in chosen)


def run(
    benchmark: Benchmark,
    backbone: Backbone,
    prompt: PromptConfig,
    settings: Callable[[str], TrainConfig],
    folder: Path,
    progress: Progress,
) -> Path:
    """Run what is not finished, and write results.md: every dataset, the average, and the published figures.

    Args:
        benchmark: what to run.
        backbone: frozen.
        prompt: of AttriPrompt.
        settings: how a dataset is trained on, by its template.
        folder: of the benchmark.
        progress: is told of each dataset.

    Returns:
        The folder.

    Raises:
        UsageError: the folder holds results of other settings; see also `protocols.run`.
    """
    results = {}
    for number, (name, spec) in enumerate(benchmark.specs().items(), start=1):
        progress.say(f"{name}: dataset {number} of {len(benchmark.folders)}")
        config = settings(spec.read(spec.seeds[0], spec.shots[0]).template)
        results[name] = scored(spec, backbone, prompt, config, folder / name, progress)
    text = markdown(benchmark, results)
    distributed.on_rank_zero(lambda: write_file(folder / "results.md", text.encode()))
    return folder


def scored(
    spec: ProtocolSpec, backbone: Backbone, prompt: PromptConfig, config: TrainConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    """The results of a protocol in `folder`, which is run first where they are not there.

    Raises:
        UsageError: the folder holds results of other settings, datasets or weights.
    """
    if not distributed.on_rank_zero((folder / RESULTS).exists):
        protocols.run(spec, backbone, prompt, config, folder, progress)
    results: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    meta = protocols.describe(spec, backbone, prompt, config, spec.read(spec.seeds[0], spec.shots[0]))
    if results.get("run") != meta:
        raise UsageError(f"{folder} holds results of other settings, images or weights: choose another `output`")
    return results


def markdown(benchmark: Benchmark, results: dict[str, dict[str, Any]]) -> str:
    """Every dataset's table in one, with the average over them and the published figures below."""
    if benchmark.protocol in TRANSFERS:
        parts = [result_tables.markdown(results[SOURCE])]
    else:
        header = ["dataset", "method", *_columns(next(iter(results.values())))]
        body = [[name, *row] for name, result in results.items() for row in _rows(result)]
        if len(results) > 1:
            body += [["average", *row] for row in _average(list(results.values()))]
        about = (
            f"{benchmark.protocol}, {_backbone(results)}, {plural(len(benchmark.seeds), 'seed')}; accuracy in percent."
        )
        parts = [f"{about}\n\n{result_tables.table(header, body)}"]
    if benchmark.missing:
        parts.append(f"Not in the folder, and not in any average: {', '.join(benchmark.missing)}.\n")
    return "\n".join([*parts, *published(benchmark.protocol)])


def _backbone(results: dict[str, dict[str, Any]]) -> str:
    return str(next(iter(results.values()))["run"]["backbone"]["model"])


def _means(result: dict[str, Any]) -> dict[str, dict[tuple[str, int], float]]:
    """Accuracy in percent by method, column and shots, the mean over seeds."""
    values: dict[str, dict[tuple[str, int], list[float]]] = {}
    for score in result["scores"]:
        row = values.setdefault(score["method"], {})
        row.setdefault((score["column"], score["shots"]), []).append(100 * score["accuracy"])
    return {method: {key: statistics.mean(some) for key, some in row.items()} for method, row in values.items()}


def _columns(result: dict[str, Any]) -> list[str]:
    if result["protocol"] == "base-to-novel":
        return ["base", "novel", "HM"]
    first = next(iter(_means(result).values()))
    return [plural(shots, "shot") for _, shots in first]


def _cells(protocol: str, row: dict[tuple[str, int], float]) -> list[str]:
    values = list(row.values())
    if protocol == "base-to-novel":
        values.append(result_tables.harmonic_mean(*values))
    return [f"{value:.2f}" for value in values]


def _rows(result: dict[str, Any]) -> list[list[str]]:
    return [[method, *_cells(result["protocol"], row)] for method, row in _means(result).items()]


def _average(results: list[dict[str, Any]]) -> list[list[str]]:
    """The mean over datasets; HM is that of the average base and novel accuracy, as in the papers."""
    means = [_means(result) for result in results]
    protocol = results[0]["protocol"]
    rows = []
    for method in means[0]:
        average = {key: statistics.mean(each[method][key] for each in means) for key in means[0][method]}
        rows.append([method, *_cells(protocol, average)])
    return rows
