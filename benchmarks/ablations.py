"""What each part of AttriPrompt is worth on the pocket set: leave it out, or change it, and compare.

    python benchmarks/ablations.py DIR

Each line is `attri-train --protocol base-to-novel --method attriprompt` with one option changed, over three seeds, with
its runs in DIR; done ones are not done again. Defaults were not chosen by these figures, which are of test pictures,
but by pictures that were held out of the training of base classes. The table is kept in benchmarks/ablations.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from attri.train.config import TERMS
from attri.train.tables import cell, harmonic_mean

VARIANTS: dict[str, list[str]] = {
    "as it is": [],
    "no retrieval: static prompts": ["--method", "static"],
    **{f"without {term}": ["--without", term] for term in TERMS if term != "class"},
    "a pool for every block": ["--per-block"],
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


def run(folder: Path, options: list[str]) -> dict[str, list[float]]:
    """Accuracies in percent over seeds, of base and of novel classes."""
    if not (folder / "results.json").is_file():
        command = [sys.executable, "-m", "attri.train.cli", "--protocol", "base-to-novel", "--output", str(folder)]
        method = [] if "--method" in options else ["--method", "attriprompt"]
        subprocess.run([*command, *method, *options], check=True, stdout=subprocess.DEVNULL)
    scores = json.loads((folder / "results.json").read_text())["scores"]
    columns = ("base", "novel")
    return {column: [100 * score["accuracy"] for score in scores if score["column"] == column] for column in columns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    lines = ["| | base | novel | HM |", "|---|---|---|---|"]
    for number, (name, options) in enumerate(VARIANTS.items()):
        accuracy = run(folder / f"{number:02}", options)
        base, novel = (np.mean(accuracy[column]) for column in ("base", "novel"))
        cells = [cell(of) for of in accuracy.values()]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {harmonic_mean(base, novel):.1f} |")
        print(lines[-1], flush=True)
    head = "Pocket, 16 shots, 3 seeds, 12 base and 12 novel classes; accuracy in percent (standard deviation)."
    text = "\n".join(["# " + __doc__.splitlines()[0], "", head, "", *lines, ""])
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
