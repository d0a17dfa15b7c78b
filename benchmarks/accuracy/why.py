"""Why novel classes lose, asked of base classes alone: one experiment per question.

    python -m benchmarks.accuracy.why FOLDER --data PHOTOS [--dataset NAME] [--weights FILE] [--page FILE]

Two thirds of the base classes are learned, the others play novel ones (`pseudo-novel` in protocols.py): no test image
and no novel class is looked at. Each variant changes one thing of AttriPrompt. After some of the epochs the logits of
both parts are kept, and with them those of the frozen features: from these come, without further training, when to stop
and how much of the frozen features to mix in, `(1 - w) z + w z0`. Of what retrieval tells, only the images count.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
from benchmarks.accuracy import cells, diagnostics, protocols, statistics
from benchmarks.accuracy.__main__ import TRAINED_ON, load, numbers
from benchmarks.accuracy.cells import Part
from benchmarks.accuracy.datasets import readers
from benchmarks.accuracy.methods import Task
from benchmarks.accuracy.methods.prompted import trained
from benchmarks.accuracy.run import Bench
from benchmarks.accuracy.tables import markdown

PARTS = ("seen", "pseudo")
WEIGHTS = tuple(round(0.1 * n, 1) for n in range(11))  # of the frozen logits
CROSS_ENTROPY = {f"weight_{term}": 0.0 for term in ("instance", "text", "logits")}
Change = tuple[dict[str, Any], dict[str, Any]]  # of PromptConfig, of TrainConfig
VARIANTS: dict[str, Change] = {
    "AttriPrompt": ({}, {}),
    "no pool: static": ({"pool_size": 0, "static_tokens": 4}, {}),
    "residual: 2 static, 2 retrieved tokens": ({"static_tokens": 2, "prompt_length": 1}, {}),
    "4 entries, not 16": ({"pool_size": 4}, {}),
    "cross-entropy alone": ({}, CROSS_ENTROPY),
    "no pool, cross-entropy alone": ({"pool_size": 0, "static_tokens": 4}, CROSS_ENTROPY),
    "text at 5, not 25": ({}, {"weight_text": 5.0}),
    "no logits term": ({}, {"weight_logits": 0.0}),
    "text at 5, no logits term": ({}, {"weight_text": 5.0, "weight_logits": 0.0}),
    "text at 100, not 25": ({}, {"weight_text": 100.0}),
    "logits at 4, not 1": ({}, {"weight_logits": 4.0}),
    "no instance stream": ({}, {"weight_instance": 0.0}),
    "averaged over epochs": ({}, {"average": True}),
}


def kept_epochs(epochs: int) -> list[int]:
    """1, 2, 4, ... and the last."""
    return sorted({1 << n for n in range(epochs.bit_length()) if 1 << n < epochs} | {epochs})


def fill(bench: Bench, dataset: str, name: str, seed: int) -> Path:
    """Train one variant with one seed, unless it is there."""
    train, parts = protocols.split("pseudo-novel", bench.sources[dataset](), protocols.SHOTS, seed, bench.sources)
    prompt, changed = replace(PromptConfig(), **VARIANTS[name][0]), VARIANTS[name][1]
    how = {"epochs": bench.epochs, "views": bench.views, "precision": bench.precision}
    about = how | {"prompt": asdict(prompt), "changed": changed, "seed": seed, "train": train.fingerprint()}
    about |= {"parts": {part: dataset.fingerprint() for part, dataset in parts.items()}}
    file = bench.folder / "why" / dataset / f"{name.replace(' ', '_')}-seed{seed}.npz"
    if cells.done(file, about):
        return file
    task = Task(
        bench.model,
        train.classes,
        train.template,
        bench.store.get(train.train, bench.views),
        None,
        bench.epochs,
        bench.precision,
        seed,
    )
    scored = {part: (task.labels(data.classes), bench.store.get(data.test)) for part, data in parts.items()}
    found: dict[str, Part] = {}

    def keep(epoch: int, logits: Callable[[AttriPrompt, Tokens, Features], Tensor], model: AttriPrompt) -> None:
        for part, (labels, data) in scored.items():
            found[f"{part}@{epoch}"] = Part(logits(model, labels, data).float().numpy(), data.targets.numpy())

    def on_epoch(trainer: Trainer) -> None:
        if trainer.epoch in kept_epochs(bench.epochs)[:-1]:
            keep(trainer.epoch, predict, trainer.model)

    keep(0, predict_plain, bench.model)
    keep(bench.epochs, predict, trained(task, prompt, on_epoch, **changed))
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
    body = []
    for name, some in found.items():

        def parts(epoch: int, weight: float, some: list[cells.Cell] = some) -> list[NDArray[np.bool_]]:
            return [correct(some, part, epoch, weight) for part in PARTS]

        def hm(epoch: int, weight: float) -> float:
            return statistics.value(parts(epoch, weight), statistics.harmonic_mean)

        stop = max(kept_epochs(epochs), key=lambda epoch: hm(epoch, 0.0))
        mix = max(WEIGHTS, key=lambda weight: hm(epochs, weight))
        row = [name, str(len(some))]
        for epoch, weight, label in ((epochs, 0.0, ""), (stop, 0.0, f" (epoch {stop})"), (epochs, mix, f" (w {mix})")):
            seen, pseudo = (f"{100 * part.mean():.1f}" for part in parts(epoch, weight))
            row.append(f"{seen} / {pseudo} / {hm(epoch, weight):.1f}{label}")
        frozen = [correct(some, part, 0, 0.0) for part in PARTS]
        row.append(str(statistics.paired(parts(epochs, mix), frozen, statistics.harmonic_mean)))
        body.append(row)
    if not body:
        return ""
    some = next(iter(found.values()))
    frozen = [correct(some, part, 0, 0.0) for part in PARTS]
    seen, pseudo = (f"{100 * part.mean():.1f}" for part in frozen)
    body.insert(
        0,
        ["zero-shot", "", f"{seen} / {pseudo} / {statistics.value(frozen, statistics.harmonic_mean):.1f}", "", "", ""],
    )
    header = ["variant", "seeds", "last epoch: seen / pseudo / HM", "stopped", "mixed", "HM mixed − zero-shot"]
    return markdown(header, body)


def retrieval(bench: Bench, dataset: str) -> str:
    """What the centres of the test images choose, block by block."""
    source = bench.sources[dataset]()
    base, _ = protocols.split("base-to-novel", source, protocols.SHOTS, 1, bench.sources)
    data = bench.store.get(source.dataset.test)
    entries = diagnostics.chosen(bench.model, bench.store.get(base.train, bench.views), data)
    body = []
    for block, one in enumerate(diagnostics.describe(entries, data.targets.numpy(), source.base), start=1):
        shares = f"{100 * one.same:.0f}%", f"{100 * one.any_two:.0f}%"
        told = f"{one.information:.2f} of {one.classes:.2f}", f"{one.distance:.2f}"
        body.append([str(block), str(one.entries), f"{one.entropy:.2f}", *shares, *told])
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
        lines += [f"## {dataset}: what retrieval tells", retrieval(bench, dataset)]
        say(lines[-1])
        if given.retrieval_only:
            continue
        files = {name: [fill(bench, dataset, name, seed) for seed in given.seeds] for name in given.variant}
        found = {name: [cells.load(file) for file in some] for name, some in files.items()}
        lines += [f"## {dataset}: variants on pseudo-novel classes", table(found, given.epochs)]
        say(lines[-1])
    if given.page:
        given.page.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
