"""Throughput of a list of images in batches, read ahead, against a loop of single calls.

    python -m benchmarks.throughput BUNDLE [--images 2000] [--batch 1 4 16]

The embedded images of both art styles, blown up to camera size so that reading them is work, again and again until
there are enough. Contestants take turns, each with a fresh cache, and all must give the same labels in the same order,
or the script fails. The table is kept in benchmarks/throughput.md.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.images import list_images
from attri.runtime.prediction import Prediction
from attri.train.pocket import IMAGES, OTHER_STYLE
from benchmarks.common import in_turn, keep, timed

SIDE, ROUNDS, LOOP = 480, 3, "a loop of single calls"


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = blown_up(list_images(IMAGES) + list_images(OTHER_STYLE), Path(folder))
        images = [files[i % len(files)] for i in range(arguments.images)]
        wanted: list[str] = []

        def turn(size: int) -> float:
            """Milliseconds; size 0 is the loop."""
            classifier = Classifier.load(arguments.bundle, device="cpu", batch=size or 1)
            found: list[Prediction] = []
            time = timed(lambda: found.extend(classifier(images) if size else map(classifier, images)))
            labels = [each.top(1)[0][0] for each in found]
            wanted.extend(labels if not wanted else [])
            assert labels == wanted, f"{size} at a time says other things"
            return time

        sizes = {LOOP: 0} | {f"a list, {size} at a time": size for size in arguments.batch}
        times = in_turn({name: partial(turn, size) for name, size in sizes.items()}, ROUNDS)
    model = Bundle.open(arguments.bundle).manifest.model["name"]
    loop: NDArray[np.float64] = np.array(times[LOOP])
    lines = [
        f"{model}, {arguments.images} JPEGs of {SIDE} x {SIDE} ({len(files)} different ones), {ROUNDS} rounds in"
        " turn. Labels are the same in all cases. Against the loop: the median of the ratios within a round.",
        "",
        "| | images a second | against the loop |",
        "|---|---|---|",
    ]
    for name, found in times.items():
        rate = 1000 * arguments.images / np.median(found)
        lines.append(f"| {name} | {rate:.0f} | {np.median(loop / found):.2f} |")
    keep(Path(__file__), __doc__, "\n".join(lines))


def blown_up(sources: list[Path], folder: Path) -> list[Path]:
    """Write the images at camera size, as JPEGs, into `folder`."""
    files = [folder / f"{number}.jpg" for number in range(len(sources))]
    for source, file in zip(sources, files, strict=True):
        Image.open(source).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)
    return files


if __name__ == "__main__":
    main()
