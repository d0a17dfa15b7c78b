"""Accuracy of AttriPrompt and of what a researcher would compare it with, with intervals.

    python -m benchmarks.accuracy FOLDER --data PHOTOS [--emoji pocket.npz] [--fashion DIR] [--weights FILE]

PHOTOS holds the unpacked archives `grocery`, `caltech101`, `clothing` and `trashnet`. Cells, features and unpacked
arrays stay in FOLDER, and what is there is not done again: stop it when you like. `--page` writes the tables of what
is there; plots lie in FOLDER/BACKBONE/plots.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from attri.train import pocket
from attri.train.model.backbone import Backbone, freeze, load_backbone
from benchmarks.accuracy import plots, protocols, tables
from benchmarks.accuracy.datasets import readers
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.run import Bench, plans
from benchmarks.common import CORES, processor

TRAINED_ON = ("twemoji", "openmoji", "grocery-produce", "caltech101", "grocery-fine", "grocery-coarse", "fashion-mnist")


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(","))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked archives")
    parser.add_argument("--emoji", type=Path, help="arrays of tools.pocket.collect")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--weights", type=Path, help="other weights of the pocket model")
    parser.add_argument("--called", default="the pocket model that comes with attri", help="the weights, on the page")
    parser.add_argument("--protocol", nargs="+", choices=protocols.PROTOCOLS, default=protocols.PROTOCOLS[:2])
    parser.add_argument("--dataset", nargs="+", choices=TRAINED_ON, help="to train on [all that are given]")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--seeds", type=numbers, default=(1, 2, 3, 4, 5))
    parser.add_argument("--shots", type=numbers, default=protocols.FEW_SHOTS, help="of few-shot")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--views", type=int, default=4, help="augmented views of a training image")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of text in training")
    parser.add_argument("--page", type=Path, help="Markdown file to write from the cells that are there")
    parser.add_argument("--tables-only", action="store_true", help="train nothing")
    return parser.parse_args()


def load(weights: Path | None) -> Backbone:
    """The pocket model, with its own weights or with others."""
    return load_backbone() if weights is None else freeze(pocket.load(weights), "pocket", weights.name)


def main() -> None:
    """Run what is missing and print the tables."""
    given = parse()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", CORES)))
    sources = readers(given.data, given.folder, given.emoji, given.fashion)
    datasets = given.dataset or [name for name in TRAINED_ON if name in sources]
    say = lambda line: print(line, flush=True)  # noqa: E731
    bench = Bench(given.folder, load(given.weights), sources, given.epochs, given.views, given.precision, say)
    if not given.tables_only:
        for plan in plans(tuple(given.protocol), datasets, tuple(given.method), given.seeds, given.shots):
            bench.fill(plan)
    results = tables.Results(bench.folder, given.seeds)
    text = tables.page(results, datasets)
    plots.draw(results, datasets, bench.folder / "plots")
    if given.page:
        about = f"Backbone: {given.called}, {bench.backbone.sha256[:12]}. {given.epochs} epochs, {given.views} views, "
        about += f"{given.precision}, on {processor()}."
        given.page.write_text(f"# {__doc__.splitlines()[0]}\n\n{about}\n\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
