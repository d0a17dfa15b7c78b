"""The results as plots: base against novel accuracy, the learning curve over shots, and the page of why.py."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np

from attri.train.report.plots import COLOURS, new_figure, save
from benchmarks.accuracy import protocols
from benchmarks.accuracy.diagnostics import Retrieved
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.statistics import Interval
from benchmarks.accuracy.tables import Results

MARKS = "osD^vPX*<"


def draw(results: Results, datasets: list[str], folder: Path) -> list[Path]:
    """Draw what there are cells of, as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for dataset in datasets:
        for kind, make in (("base-to-novel", base_to_novel), ("few-shot", few_shot)):
            path = folder / f"{kind}-{dataset}.png"
            if make(results, dataset, path):
                drawn.append(path)
    return drawn


def base_to_novel(results: Results, dataset: str, path: Path) -> bool:
    """A point per seed, and the line of zero-shot's harmonic mean."""
    figure = new_figure(5.5, 4.5)
    axes = figure.subplots()
    count = 0
    for name, colour, mark in zip(METHODS, cycle(COLOURS), cycle(MARKS), strict=False):
        found = results.cells("base-to-novel", dataset, name)
        if not found or not METHODS[name].names_classes:
            continue
        base, novel = (100 * results.part(found, part)[0].mean(1) for part in ("base", "novel"))
        axes.scatter(base, novel, color=colour, marker=mark, s=36, alpha=0.8, label=name)
        count += 1
        if name == "zero-shot" and base[0] > 0 and novel[0] > 0:
            mean = 2 * base[0] * novel[0] / (base[0] + novel[0])
            x = np.linspace(mean / 2 + 0.5, 100, 400)
            axes.plot(x, mean * x / (2 * x - mean), color="#888888", linewidth=0.8, zorder=0)
    if count < 2:
        return False
    points = np.concatenate([collection.get_offsets() for collection in axes.collections])
    low, high = points.min(0) - 3, points.max(0) + 3
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(xlabel="base accuracy, %", ylabel="novel accuracy, %", title=f"{dataset}; line: zero-shot's harmonic mean")
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)
    return True


def few_shot(results: Results, dataset: str, path: Path) -> bool:
    """Accuracy over shots, the mean over seeds."""
    figure = new_figure(5.5, 4.0)
    axes = figure.subplots()
    drawn = False
    for name, colour, mark in zip(METHODS, cycle(COLOURS), cycle(MARKS), strict=False):
        curve = []
        for shots in protocols.FEW_SHOTS:
            found = results.cells("few-shot", dataset, name, shots)
            if found:
                curve.append((shots, 100 * results.part(found, "test")[0].mean()))
        drawn = drawn or len(curve) > 1
        if curve:
            axes.plot(*zip(*curve, strict=True), color=colour, marker=mark, markersize=4, linewidth=1.2, label=name)
    if not drawn:
        return False
    axes.set_xscale("log", base=2)
    axes.set_xticks(protocols.FEW_SHOTS, [str(n) for n in protocols.FEW_SHOTS])
    axes.set(xlabel="training images per class", ylabel="accuracy, %", title=dataset)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the lines
    save(figure, path)
    return True


def draw_why(blocks: list[Retrieved], differences: dict[str, Interval], path: Path) -> None:
    """What each block's retrieval says of the class, and what each variant is worth beside the default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = new_figure(10, 1.6 + 0.24 * max(6, len(differences)))
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    numbers = range(1, len(blocks) + 1)
    left.bar(numbers, [block.entropy for block in blocks], color="#cccccc", label="entropy of the entries")
    left.bar(numbers, [block.information for block in blocks], color=COLOURS[0], label="information on the class")
    left.axhline(blocks[0].classes, color=COLOURS[5], linestyle="--", label="entropy of the class")
    left.set(xlabel="text block", ylabel="bits", xticks=list(numbers), ylim=(0, 1.35 * blocks[0].classes))
    left.legend(frameon=False, fontsize=8, loc="upper left")
    rows = range(len(differences))
    for row, found in zip(rows, differences.values(), strict=True):
        colour = COLOURS[5] if found.excludes_zero else "#666666"
        right.plot([found.low, found.high], [row, row], color=colour)
        right.plot(found.value, row, "o", color=colour, markersize=4)
    right.axvline(0, color="#888888", linewidth=0.8)
    right.set_yticks(list(rows), list(differences))
    right.invert_yaxis()
    right.set(xlabel="HM less that of AttriPrompt, points (95% interval)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
