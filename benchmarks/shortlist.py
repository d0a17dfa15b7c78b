"""Shortlists for thousands of labels: latency, and how often the best label is that of the full computation.

    python -m benchmarks.shortlist [RUN] [--threads 2]

RUN (runs/latest) is a trained pocket run. Its test images in both art styles are classified with the names that
Unicode gives to pictographs, which are the names that the pocket backbone was trained on, and with words before them
where more are wanted. Nothing is cached. Printed are medians of the text stage over images; with every image large
and small label sets take turns, each with a frame before the measured one. The tables are kept in
benchmarks/shortlist.md.
"""

from __future__ import annotations

import argparse
import tempfile
import unicodedata
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from attri.export.onnx import ExportOptions, export_bundle
from attri.runtime import Classifier
from attri.runtime.images import list_images
from attri.train.fitting import load_model
from attri.train.pocket import IMAGES, OTHER_STYLE
from attri.train.training.checkpoint import load_run
from benchmarks.common import in_turn, keep

SIZES = (256, 1000, 3000, 10_000)
SHORTLISTS = (16, 64, 256)
SHORTLIST = 64
WORDS = ("red", "green", "blue", "small", "large", "old", "new", "wet")
BLOCKS = (range(0x2600, 0x27C0), range(0x1F300, 0x1F650), range(0x1F680, 0x1F700), range(0x1F900, 0x1FB00))
COSTED, TURNS = 12, 2  # images whose cost is measured, and how often


def names() -> list[str]:
    """Of pictographs, in the order of their code points."""
    every = (unicodedata.name(chr(point), "").lower() for block in BLOCKS for point in block)
    return list(dict.fromkeys(name for name in every if name))


def agreement(bundle: Path, images: list[Path], labels: list[str], threads: int) -> list[str]:
    """Table of how often a shortlist has the same best label as all labels."""

    def best(shortlist: int | None) -> np.ndarray:
        classifier = Classifier.load(bundle, labels, device="cpu", threads=threads, shortlist=shortlist)
        found = (classifier(image) for image in images)
        return np.array([labels.index(each.top(1)[0][0]) for each in found])

    exact = best(None)
    lines = ["| labels that are prompted | same best label as all of them |", "|---|---|"]
    for size in SHORTLISTS:
        lines.append(f"| {size} | {np.mean(best(size) == exact):.1%} |")
    return lines


def cost(bundle: Path, images: list[Path], labels: list[str], threads: int) -> list[str]:
    """Text stage in milliseconds by the number of labels, with and without a shortlist."""
    contestants = {
        (size, shortlist): Classifier.load(
            bundle, labels[:size], device="cpu", threads=threads, cache_bytes=0, shortlist=shortlist
        )
        for size in SIZES
        for shortlist in (SHORTLIST, None)
    }
    turns = {key: partial(measured, one, cycle(images)) for key, one in contestants.items()}
    times = in_turn(turns, TURNS * len(images))
    median = {key: float(np.median(found)) for key, found in times.items()}
    lines = [f"| labels | all, ms | shortlist of {SHORTLIST}, ms | against {SIZES[0]} labels |", "|---|---|---|---|"]
    for size in SIZES:
        ratio = np.median(np.array(times[size, SHORTLIST]) / times[SIZES[0], SHORTLIST])
        lines.append(f"| {size} | {median[size, None]:.1f} | {median[size, SHORTLIST]:.1f} | {ratio:.2f} |")
    return lines


def measured(classifier: Classifier, images: Iterator[Path]) -> float:
    """Milliseconds of the text stage of the next image, at its second classification."""
    image = next(images)
    classifier(image)
    return classifier(image).latency_ms["text"]


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/latest"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    images = list_images(IMAGES / "test") + list_images(OTHER_STYLE)
    known = names()
    more = known + [f"{word} {name}" for word in WORDS for name in known]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        run = load_run(arguments.run)
        export_bundle(load_model(run), bundle, run.classes, images[:32], ExportOptions(template=run.train.template))
        lines = [
            f"Pocket, trained, {len(images)} test images in two styles, {len(known)} names of pictographs,"
            f" {arguments.threads} threads.",
            "",
            *agreement(bundle, images, known, arguments.threads),
            "",
            f"Text stage of {COSTED} images, {TURNS} rounds. Against {SIZES[0]} labels: the median of the ratios with"
            " the same image.",
            "",
            *cost(bundle, images[:: len(images) // COSTED][:COSTED], more, arguments.threads),
        ]
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
