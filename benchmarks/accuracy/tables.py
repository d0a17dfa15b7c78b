"""The results as Markdown: every figure in percent, differences in points with 95% intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import cells, protocols, statistics
from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.statistics import Correct, Statistic

REFERENCES = ("zero-shot", "static")


class Results:
    """The cells of one backbone that are there.

    Args:
        folder: of the cells.
        seeds: those that count.
    """

    def __init__(self, folder: Path, seeds: tuple[int, ...]) -> None:
        self.folder, self.seeds = folder, seeds

    def cells(self, protocol: str, dataset: str, method: str, shots: int = protocols.SHOTS) -> list[Cell]:
        """One per seed, of the seeds that are there; a method that depends on no seed has one."""
        name = f"{method}-{{}}shots-seed{{}}.npz"
        if method in METHODS and not METHODS[method].seeded:
            shots = protocols.SHOTS
        files = [self.folder / protocol / dataset / name.format(shots, seed) for seed in self.seeds]
        return [cells.load(file) for file in files if file.is_file()]

    def part(self, found: list[Cell], name: str) -> tuple[Correct, NDArray[np.int64]]:
        """Correct [S, I] and targets [I] of one part."""
        return np.stack([cell.parts[name].correct for cell in found]), found[0].parts[name].targets


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def same_seeds(ours: Correct, theirs: Correct) -> tuple[Correct, Correct]:
    """As many seeds of both, the first ones; a single row stands for every seed."""
    count = min(len(one) for one in (ours, theirs) if len(one) > 1) if max(len(ours), len(theirs)) > 1 else 1
    return ours[:count], theirs[:count]


def difference(ours: list[Correct], theirs: list[Correct], statistic: Statistic) -> str:
    """The paired difference, printed."""
    pairs = [same_seeds(*pair) for pair in zip(ours, theirs, strict=True)]
    return str(statistics.paired([a for a, _ in pairs], [b for _, b in pairs], statistic))


def base_to_novel(results: Results, dataset: str) -> str:
    """Averages, class means, HM, and the differences to the references; empty where nothing was run."""
    found = {name: results.cells("base-to-novel", dataset, name) for name in METHODS}
    found = {name: some for name, some in found.items() if some}
    names = {name: ("base", "novel") if METHODS[name].names_classes else ("base",) for name in found}
    correct = {name: [results.part(found[name], part)[0] for part in names[name]] for name in found}
    body = []
    for name, parts in correct.items():
        targets = [results.part(found[name], part)[1] for part in names[name]]
        means = [
            f"{100 * part.mean():.1f} ({statistics.class_mean(part, t):.1f})"
            for part, t in zip(parts, targets, strict=True)
        ]
        row = [name, str(len(found[name])), *means, *["–"] * (2 - len(means))]
        row.append(f"{statistics.value(parts, statistics.harmonic_mean):.1f}" if len(parts) == 2 else "–")
        for reference in REFERENCES:
            usable = len(parts) == 2 and reference in correct and reference != name
            row.append(difference(parts, correct[reference], statistics.harmonic_mean) if usable else "")
        novel = len(parts) == 2 and "zero-shot" in correct and name != "zero-shot"
        row.append(difference(parts[1:], correct["zero-shot"][1:], statistics.accuracy) if novel else "")
        body.append(row)
    if not body:
        return ""
    sizes = [part.shape[1] for part in next(iter(correct.values()))]
    header = ["method", "seeds", "base (class mean)", "novel (class mean)", "HM"]
    header += [*(f"HM − {name}" for name in REFERENCES), "novel − zero-shot"]
    return f"### {dataset}: {sizes[0]} base and {sizes[-1]} novel test images\n\n" + markdown(header, body)


def few_shot(results: Results, dataset: str) -> str:
    """Accuracy by shots, and the difference to static prompts at the most shots."""
    static = results.cells("few-shot", dataset, "static")
    body = []
    for name in METHODS:
        row = [name]
        for shots in protocols.FEW_SHOTS:
            found = results.cells("few-shot", dataset, name, shots)
            row.append(f"{100 * results.part(found, 'test')[0].mean():.1f}" if found else "")
        if not any(row[1:]):
            continue
        found = results.cells("few-shot", dataset, name)
        if found and static and name != "static":
            ours, theirs = ([results.part(some, "test")[0]] for some in (found, static))
            row.append(difference(ours, theirs, statistics.accuracy))
        body.append([*row, ""][: len(protocols.FEW_SHOTS) + 2])
    if not body:
        return ""
    header = ["method", *(f"{n} shot{'s' * (n > 1)}" for n in protocols.FEW_SHOTS), f"{protocols.SHOTS} shots − static"]
    return f"### {dataset}\n\n" + markdown(header, body)


def targets(results: Results, dataset: str) -> str:
    """Trained on `dataset` with 16 shots, scored on other datasets or styles."""
    names = ("test", *protocols.TARGETS[dataset])
    found = {name: results.cells("few-shot", dataset, name) for name in METHODS if METHODS[name].names_classes}
    found = {name: some for name, some in found.items() if some}
    body = []
    for name, some in found.items():
        row = [name, str(len(some))]
        for part in names:
            if part not in some[0].parts:
                row.append("")
                continue
            correct, _ = results.part(some, part)
            row.append(f"{100 * correct.mean():.1f}")
            if name != "zero-shot" and "zero-shot" in found:
                row[-1] += (
                    f" ({difference([correct], [results.part(found['zero-shot'], part)[0]], statistics.accuracy)})"
                )
        body.append(row)
    return f"### from {dataset}\n\n" + markdown(["method", "seeds", *names], body) if len(body) > 1 else ""


def cost(results: Results, datasets: list[str]) -> str:
    """Processor seconds of a training, the mean over seeds."""
    body = []
    for name in METHODS:
        row = [name]
        for dataset in datasets:
            found = results.cells("base-to-novel", dataset, name)
            row.append(f"{np.mean([cell.seconds for cell in found]):.1f}" if found else "")
        if any(row[1:]):
            body.append(row)
    return markdown(["method", *datasets], body) if body else ""


def page(results: Results, datasets: list[str]) -> str:
    """All tables that have anything in them."""
    sources = [name for name in datasets if name in protocols.TARGETS]
    sections = {
        "Base-to-novel, 16 shots": [base_to_novel(results, name) for name in datasets],
        "Few-shot, all classes": [few_shot(results, name) for name in datasets],
        "Other datasets and other drawing styles, 16 shots": [targets(results, name) for name in sources],
        "Cost of a base-to-novel training, processor seconds": [cost(results, datasets)],
    }
    parts = []
    for title, tables in sections.items():
        if any(tables):
            parts.append(f"## {title}\n\n" + "\n".join(table for table in tables if table))
    return "\n".join(parts)
