"""Why novel classes lose, asked of base classes alone: one experiment per question.

    python -m benchmarks.accuracy.why FOLDER --data PHOTOS [--dataset NAME] [--weights FILE] [--page FILE]

Two thirds of the base classes are learned, the others play novel ones (`pseudo-novel` in protocols.py): no test image
and no novel class is looked at. Each variant changes one thing of AttriPrompt (variants.py). After some of the epochs
the logits of both parts are kept, and those of the frozen features with them: from these come, without further
training, when to stop and how much of the frozen features to mix in, `(1 - w) z + w z0`. Of what retrieval tells, only
the images count.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attri.runtime.text.reader import Tokens
from attri.train.config import PromptConfig
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.features import Features
from attri.train.training.predict import predict, predict_plain
from attri.train.training.trainer import Trainer
from benchmarks.accuracy import cells, diagnostics, plots, protocols, statistics
from benchmarks.accuracy.__main__ import TRAINED_ON, load, numbers
from benchmarks.accuracy.cells import Part
from benchmarks.accuracy.datasets import readers
from benchmarks.accuracy.methods import Task
from benchmarks.accuracy.methods.prompted import trained
from benchmarks.accuracy.run import Bench
from benchmarks.accuracy.tables import markdown
from benchmarks.accuracy.variants import DEFAULT, VARIANTS, vocabulary

PARTS = ("seen", "pseudo")
WEIGHTS = tuple(round(0.1 * n, 1) for n in range(11))  # of the frozen logits


def kept_epochs(epochs: int) -> list[int]:
    """1, 2, 4, ... and the last."""
    return sorted({1 << n for n in range(epochs.bit_length()) if 1 << n < epochs} | {epochs})


def fill(bench: Bench, dataset: str, name: str, seed: int) -> Path:
    """Train one variant with one seed, unless it is there."""
    source, variant = bench.sources[dataset](), VARIANTS[name]
    train, parts = protocols.split("pseudo-novel", source, protocols.SHOTS, seed, bench.sources)
    how = {"epochs": bench.epochs, "views": bench.views, "precision": bench.precision}
    about = how | {"variant": asdict(variant), "seed": seed, "train": train.fingerprint()}
    about |= {"parts": {part: dataset.fingerprint() for part, dataset in parts.items()}}
    file = bench.folder / "why" / dataset / f"{name.replace(' ', '_')}-seed{seed}.npz"
    if cells.done(file, about):
        return file
    images = bench.store.get(train.train, bench.views)
    reads = variant.reads(images)
    classes = train.classes
    words = vocabulary(bench.model, source.dataset.classes, len(classes), seed) if variant.words else []
    task = Task(bench.model, classes, train.template, reads(images), None, bench.epochs, bench.precision, seed)
    scored = {part: (task.labels(data.classes), reads(bench.store.get(data.test))) for part, data in parts.items()}
    found: dict[str, Part] = {}

    def keep(epoch: int, logits: Callable[[AttriPrompt, Tokens, Features], Tensor], model: AttriPrompt) -> None:
        for part, (labels, data) in scored.items():
            found[f"{part}@{epoch}"] = Part(logits(model, labels, data).float().numpy(), data.targets.numpy())

    def on_epoch(trainer: Trainer) -> None:
        if trainer.epoch in kept_epochs(bench.epochs)[:-1]:
            keep(trainer.epoch, predict, trainer.model)

    keep(0, predict_plain, bench.model)
    prompt = replace(PromptConfig(), **variant.prompt)
    keep(bench.epochs, predict, trained(task, prompt, on_epoch, words, **variant.train))
    cells.save(file, cells.Cell(about, found, 0.0))
    last = [100 * found[f"{part}@{bench.epochs}"].correct.mean() for part in PARTS]
    bench.say(f"{file.relative_to(bench.folder)}: seen {last[0]:.1f}, pseudo {last[1]:.1f}")
    return file


def correct(found: list[cells.Cell], part: str, epoch: int, weight: float) -> NDArray[np.bool_]:
    """Right answers after an epoch with a share of the frozen logits. -> [S, I]."""
    rows = []
    for cell in found:
        ours, plain = cell.parts[f"{part}@{epoch}"], cell.parts[f"{part}@0"]
        mixed = (1 - weight) * ours.logits + weight * plain.logits
        rows.append(Part(mixed, ours.targets).correct)
    return np.stack(rows)


def table(found: dict[str, list[cells.Cell]], epochs: int) -> str:
    """Each variant at the end, stopped at its best epoch, and mixed at its best weight, by HM of both parts."""
    some = next(iter(found.values()))
    frozen = [correct(some, part, 0, 0.0) for part in PARTS]
    body = [["zero-shot", "", shares(frozen), "", "", "", ""]]
    beside = differences(found, epochs)
    for name, some in found.items():

        def parts(epoch: int, weight: float, some: list[cells.Cell] = some) -> list[NDArray[np.bool_]]:
            return [correct(some, part, epoch, weight) for part in PARTS]

        def hm(epoch: int, weight: float) -> float:
            return statistics.value(parts(epoch, weight), statistics.harmonic_mean)

        stop = max(kept_epochs(epochs), key=lambda epoch: hm(epoch, 0.0))
        mix = max(WEIGHTS, key=lambda weight: hm(epochs, weight))
        ways = {"": (epochs, 0.0), f" (epoch {stop})": (stop, 0.0), f" (w {mix})": (epochs, mix)}
        row = [name, str(len(some)), *(shares(parts(*way)) + label for label, way in ways.items())]
        row.append(str(statistics.paired(parts(epochs, mix), frozen, statistics.harmonic_mean)))
        body.append([*row, str(beside[name]) if name in beside else ""])
    header = ["variant", "seeds", "last epoch: seen / pseudo / HM", "stopped", "mixed", "HM mixed − zero-shot"]
    return markdown([*header, f"HM − {DEFAULT}"], body)


def shares(parts: list[NDArray[np.bool_]]) -> str:
    """Accuracy of both parts and their HM, printed."""
    seen, pseudo = (f"{100 * part.mean():.1f}" for part in parts)
    return f"{seen} / {pseudo} / {statistics.value(parts, statistics.harmonic_mean):.1f}"


def differences(found: dict[str, list[cells.Cell]], epochs: int) -> dict[str, statistics.Interval]:
    """HM of every variant but the default, less that of the default, after the last epoch."""
    last = {name: [correct(some, part, epochs, 0.0) for part in PARTS] for name, some in found.items()}
    default = last.pop(DEFAULT, None)
    if default is None:
        return {}
    return {name: statistics.paired(parts, default, statistics.harmonic_mean) for name, parts in last.items()}


def retrieval(bench: Bench, dataset: str) -> list[diagnostics.Retrieved]:
    """What the centres of the test images choose, block by block."""
    source = bench.sources[dataset]()
    base, _ = protocols.split("base-to-novel", source, protocols.SHOTS, 1, bench.sources)
    data = bench.store.get(source.dataset.test)
    entries = diagnostics.chosen(bench.model, bench.store.get(base.train, bench.views), data)
    return diagnostics.describe(entries, data.targets.numpy(), source.base)


def retrieval_table(blocks: list[diagnostics.Retrieved]) -> str:
    """A row for each text block."""
    body = []
    for block, one in enumerate(blocks, start=1):
        agree = f"{100 * one.same:.0f}%", f"{100 * one.any_two:.0f}%"
        told = f"{one.information:.2f} of {one.classes:.2f}", f"{one.distance:.2f}"
        body.append([str(block), str(one.entries), f"{one.entropy:.2f}", *agree, *told])
    header = ["text block", "entries in use", "entropy, bits", "same class agrees", "any two agree"]
    return markdown([*header, "information on the class, bits", "distance base to novel"], body)


def main() -> None:
    """Run what is missing and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--emoji", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--called", default="the pocket model that comes with attri")
    parser.add_argument("--dataset", nargs="+", choices=TRAINED_ON, default=("grocery-produce", "caltech101"))
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=tuple(VARIANTS))
    parser.add_argument("--seeds", type=numbers, default=(1, 2, 3))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--retrieval-only", action="store_true", help="train nothing")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sources = readers(given.data, given.folder, given.emoji, None)
    say = lambda line: print(line, flush=True)  # noqa: E731
    bench = Bench(given.folder, load(given.weights), sources, given.epochs, given.views, given.precision, say)
    lines = [f"# {__doc__.splitlines()[0]}", f"Backbone: {given.called}, {bench.backbone.sha256[:12]}."]
    for dataset in given.dataset:
        blocks = retrieval(bench, dataset)
        lines += [f"## {dataset}: what retrieval tells", retrieval_table(blocks)]
        say(lines[-1])
        if given.retrieval_only:
            continue
        files = {name: [fill(bench, dataset, name, seed) for seed in given.seeds] for name in given.variant}
        found = {name: [cells.load(file) for file in some] for name, some in files.items()}
        plot = (given.page or bench.folder / "why").parent / f"why-{dataset}.png"
        plots.draw_why(blocks, differences(found, given.epochs), plot)
        lines += [f"## {dataset}: variants on pseudo-novel classes", table(found, given.epochs)]
        say(lines[-1])
        lines.append(f"![{dataset}: information of retrieval by block, and HM of the variants]({plot.name})")
    if given.page:
        given.page.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
