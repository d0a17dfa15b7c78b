"""Batches side by side with a thread each, and threads that share a batch, by images per second and processor time.

    python -m benchmarks.side_by_side PHOTOS [--models pocket,ViT-B-32] [--images 200] [--rounds 7]

The photographs are JPEGs in memory whose shorter side is 480 pixels; two threads decode them meanwhile, as attri-batch
has them. All in one process, in turn, on models whose largest part is decoding (pocket) and the graphs (ViT-B-32).
Processor time is that of the process, for an image. The table is kept in benchmarks/side_by_side.md.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attri.runtime.batch import ClassifyBatch
from attri.runtime.images import list_images
from benchmarks.common import CORES, in_turn
from benchmarks.datasets import resized
from benchmarks.models import WEIGHTS, command_line, export_random, keep_table

SIDE = 480
SHARED = f"{CORES} threads share a batch"
COLUMNS = ["model", "", "images/s", "against the first", "processor ms for an image"]


class Turn(NamedTuple):
    """Of a pass over the images: images per second, and processor milliseconds for an image."""

    rate: float
    processor: float


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = command_line(__doc__)
    parser.set_defaults(models="pocket,ViT-B-32", rounds=7)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    every = list_images(arguments.photos)
    images = [jpeg(every[number * len(every) // arguments.images]) for number in range(arguments.images)]
    about = (
        f"{len(images)} JPEGs, {arguments.rounds} rounds in turn. Against the first: the median of the ratios within a"
        f" round; all else are medians. {WEIGHTS}"
    )
    keep_table(__file__, __doc__, about, COLUMNS, arguments.models, partial(measure, images, arguments.rounds))


def jpeg(file: Path) -> bytes:
    """A photograph whose shorter side is 480 pixels."""
    data = io.BytesIO()
    resized(file, SIDE).save(data, "JPEG")
    return data.getvalue()


def measure(images: list[bytes], rounds: int, model: str, folder: Path) -> Iterator[str]:
    """The rows of a model."""
    labels = ["red apple", "bird", "car", "dog", "house", "shoe", "milk", "pear", "tree", "boat"]
    export_random(model, folder / "bundle", labels)
    classify = partial(ClassifyBatch, folder / "bundle", labels)
    contestants = {
        SHARED: classify(threads=CORES),
        "one thread": classify(threads=1),
        f"{CORES} batches side by side, a thread each (attri-batch)": classify(threads=1, side_by_side=CORES),
    }
    for each in contestants.values():
        each({"image": images})  # from then on all text features are cached
    found = in_turn({name: partial(turn, each, images) for name, each in contestants.items()}, rounds)
    first = np.array([each.rate for each in found[SHARED]])
    for name, turns in found.items():
        rates, times = np.array(turns).T
        row = [f"{np.median(rates):.0f}", f"{np.median(rates / first):.2f}", f"{np.median(times):.1f}"]
        yield f"| {model} | {name} | {' | '.join(row)} |"


def turn(classify: ClassifyBatch, images: list[bytes]) -> Turn:
    """Classify all images once."""
    started, processor = time.perf_counter(), time.process_time()
    classify({"image": images})
    seconds, busy = time.perf_counter() - started, time.process_time() - processor
    return Turn(len(images) / seconds, 1000 * busy / len(images))


if __name__ == "__main__":
    main()
