"""Thousands of labels: what a shortlist costs, and how often it gives the best label of the full computation.

    python -m benchmarks.shortlist [RUN] [--threads 2]

RUN (runs/latest) is a trained pocket run. Its test pictures in both art styles are classified with the names that
Unicode gives to pictographs, which are the names that the pocket backbone was trained on, and with words before them
where more are wanted. Nothing is cached; printed are medians of the text stage, large and small label sets taking
turns. The table is kept in benchmarks/shortlist.md.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import unicodedata
from pathlib import Path

import numpy as np

from attri.export.onnx import export_bundle
from attri.runtime import Classifier
from attri.runtime.images import list_images
from attri.train.checkpoint import load_run
from attri.train.fit import load_model
from attri.train.pocket import IMAGES, OTHER_STYLE

SIZES = (256, 1000, 3000, 10_000)
SHORTLISTS = (16, 64, 256)
SHORTLIST = 64
WORDS = ("red", "green", "blue", "small", "large", "old", "new", "wet")
BLOCKS = (range(0x2600, 0x27C0), range(0x1F300, 0x1F650), range(0x1F680, 0x1F700), range(0x1F900, 0x1FB00))
COSTED = 12  # pictures whose cost is measured


def names() -> list[str]:
    """Of pictographs, in the order of their code points."""
    every = (unicodedata.name(chr(point), "").lower() for block in BLOCKS for point in block)
    return list(dict.fromkeys(name for name in every if name))


def agreement(bundle: Path, pictures: list[Path], labels: list[str], threads: int) -> list[str]:
    def best(shortlist: int | None) -> np.ndarray:
        classifier = Classifier.load(bundle, labels, device="cpu", threads=threads, shortlist=shortlist)
        found = (classifier(picture) for picture in pictures)
        return np.array([labels.index(each.top(1)[0][0]) for each in found])

    exact = best(None)
    lines = ["| labels that are prompted | same best label as all of them |", "|---|---|"]
    for size in SHORTLISTS:
        lines.append(f"| {size} | {np.mean(best(size) == exact):.1%} |")
    return lines


def cost(bundle: Path, pictures: list[Path], labels: list[str], threads: int) -> list[str]:
    """Text stage in milliseconds by the number of labels, with and without a shortlist."""
    contestants = {
        (size, shortlist): Classifier.load(
            bundle, labels[:size], device="cpu", threads=threads, cache_bytes=0, shortlist=shortlist
        )
        for size in SIZES
        for shortlist in (SHORTLIST, None)
    }
    for classifier in contestants.values():
        classifier(pictures[0])
    times = {key: [one(picture).latency_ms["text"] for picture in pictures] for key, one in contestants.items()}
    for key, one in contestants.items():  # a second turn
        times[key] += [one(picture).latency_ms["text"] for picture in pictures]
    base = np.median(times[SIZES[0], SHORTLIST])
    lines = [f"| labels | all, ms | shortlist of {SHORTLIST}, ms | against {SIZES[0]} labels |", "|---|---|---|---|"]
    for size in SIZES:
        full, listed = np.median(times[size, None]), np.median(times[size, SHORTLIST])
        lines.append(f"| {size} | {full:.1f} | {listed:.1f} | {listed / base:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/latest"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    pictures = list_images(IMAGES / "test") + list_images(OTHER_STYLE)
    known = names()
    more = known + [f"{word} {name}" for word in WORDS for name in known]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        run = load_run(arguments.run)
        export_bundle(load_model(run), bundle, run.classes, pictures[:32], template=run.train.template)
        lines = [
            f"Pocket, {len(pictures)} test pictures in two styles, {len(known)} names of pictographs, CPU"
            f" ({platform.machine()}), {arguments.threads} threads.",
            "",
            *agreement(bundle, pictures, known, arguments.threads),
            "",
            *cost(bundle, pictures[:: len(pictures) // COSTED][:COSTED], more, arguments.threads),
        ]
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
