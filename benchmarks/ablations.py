"""Ablations of AttriPrompt on the pocket set: each part left out or changed in turn.

    python -m benchmarks.ablations DIR

Each line is `attri-train --protocol` with one option changed, over three seeds, with its runs in DIR; done ones are not
done again. Two tables come from it, kept in benchmarks/ablations.md. Validation uses the training images of the base
classes only: one half of these classes is learned, with every third image held back, the other half plays the novel
ones, and then they change places. Defaults may be chosen by it; test, base-to-novel as published, chooses
nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from attri.train.config import TERMS
from attri.train.data import LabelledImage, read_data
from attri.train.evaluation.result_tables import cell, harmonic_mean
from attri.train.pocket import IMAGES
from benchmarks.common import keep

VARIANTS: dict[str, list[str]] = {
    "zero-shot": ["--method", "zero-shot"],
    "static: no retrieval": ["--method", "static"],
    "AttriPrompt as it is": [],
    **{f"without {term}": ["--loss-weight", term, "0"] for term in TERMS if term != "class"},
    "instance at 0.05, not 0.25": ["--loss-weight", "instance", "0.05"],
    "text at 50, not 25": ["--loss-weight", "text", "50"],
    "text at 100, not 25": ["--loss-weight", "text", "100"],
    "logits at 4, not 1": ["--loss-weight", "logits", "4"],
    "a pool for every block": ["--pool", "per-block"],
    "K = 1 cluster": ["--clusters", "1"],
    "K = 4 clusters": ["--clusters", "4"],
    "k = 2 entries a cluster": ["--topk", "2"],
    "p = 1 token an entry": ["--prompt-length", "1"],
    "p = 4 tokens an entry": ["--prompt-length", "4"],
    "N = 8 entries": ["--pool-size", "8"],
    "N = 32 entries": ["--pool-size", "32"],
    "depth 3 of 6 blocks": ["--depth", "3"],
    "averaged over epochs": ["--average"],
}


def validation(folder: Path) -> list[list[str]]:
    """The two protocols of the validation; writes their CSV files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    base, _ = read_data(IMAGES).halves()
    halves = base.halves()
    protocols = []
    for number, (seen, other) in enumerate((halves, halves[::-1])):
        held = [image for place, image in enumerate(seen.train) if place % 3 == 0]
        kept = [image for place, image in enumerate(seen.train) if place % 3]
        source = write(folder / f"seen{number}.csv", seen.classes, {"train": kept, "val": seen.val, "test": held})
        target = write(folder / f"other{number}.csv", other.classes, {"test": other.train + other.val})
        protocols.append(["--protocol", "cross-dataset", "--data", str(source), "--target", str(target)])
    return protocols


def write(file: Path, classes: list[str], splits: dict[str, list[LabelledImage]]) -> Path:
    """Write a CSV dataset with the images of each split, and return its path."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label", "split"])
        rows.writerows((p.path, classes[p.target], split) for split, images in splits.items() for p in images)
    return file


def run(folder: Path, protocol: list[str], options: list[str]) -> list[list[float]]:
    """Accuracies in percent over seeds, of the classes that were learned and of the others."""
    if not (folder / "results.json").is_file():
        command = [sys.executable, "-m", "attri.train.cli", *protocol, "--output", str(folder)]
        method = [] if "--method" in options else ["--method", "attriprompt"]
        subprocess.run([*command, *method, *options], check=True, stdout=subprocess.DEVNULL)
    scores = json.loads((folder / "results.json").read_text())["scores"]
    columns = dict.fromkeys(score["column"] for score in scores)
    return [[100 * score["accuracy"] for score in scores if score["column"] == column] for column in columns]


def table(folder: Path, protocols: list[list[str]]) -> list[str]:
    """Train every variant under the protocols, and return a Markdown row for each."""
    lines = ["| | base | novel | HM |", "|---|---|---|---|"]
    for name, options in VARIANTS.items():
        place = "-".join(options).replace("--", "") or "default"
        runs = [run(folder / f"{place}-{number}", protocol, options) for number, protocol in enumerate(protocols)]
        base, novel = np.mean(runs, axis=0)  # of every seed, over the protocols
        cells = f"{cell(list(base))} | {cell(list(novel))} | {harmonic_mean(base.mean(), novel.mean()):.1f}"
        lines.append(f"| {name} | {cells} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    text = [
        "Pocket, 3 seeds; accuracy in percent (standard deviation over seeds).",
        "",
        "Validation, on training images of the 12 base classes: 6 are learned and 6 stand in for novel ones, and then"
        " the reverse.",
        "",
        *table(folder / "validation", validation(folder)),
        "",
        "Test, base-to-novel: 16 shots, 12 base and 12 novel classes.",
        "",
        *table(folder / "test", [["--protocol", "base-to-novel"]]),
    ]
    keep(Path(__file__), __doc__, "\n".join(text))


if __name__ == "__main__":
    main()
