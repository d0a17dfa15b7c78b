"""A list of pictures in batches, read ahead, against a loop of single calls.

    python -m benchmarks.throughput BUNDLE [--pictures 2000] [--batch 1 4 16]

The embedded pictures of both art styles, blown up to camera size so that reading them is work, again and again until
there are enough. Every contestant has a fresh cache, and all must give the same labels in the same order. The table is
kept in benchmarks/throughput.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from attri.runtime import Classifier
from attri.runtime.images import list_images
from attri.train.pocket import IMAGES, OTHER_STYLE

SIDE = 480
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, source in enumerate(list_images(IMAGES) + list_images(OTHER_STYLE)):
            files.append(Path(folder) / f"{number}.jpg")
            Image.open(source).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(files[-1])
        pictures = [files[i % len(files)] for i in range(arguments.pictures)]
        runs = {"a loop of single calls": 0} | {f"a list, {size} at a time": size for size in arguments.batch}
        times: dict[str, list[float]] = {name: [] for name in runs}
        wanted: list[str | None] = []
        for _ in range(ROUNDS):
            for name, size in runs.items():
                classifier = Classifier.load(arguments.bundle, device="cpu", batch=size or 1)
                started = time.perf_counter()
                found = classifier(pictures) if size else [classifier(picture) for picture in pictures]
                times[name].append(time.perf_counter() - started)
                labels = [each.top(1)[0][0] for each in found]
                wanted = wanted or labels
                assert np.mean([a == b for a, b in zip(labels, wanted, strict=True)]) > 0.999, (
                    f"{name} says other things"
                )
    loop = np.array(times["a loop of single calls"])
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{arguments.pictures} JPEGs of {SIDE} x {SIDE}, CPU ({platform.machine()}), {cores} cores, {ROUNDS} rounds.",
        "",
        "| | pictures a second | against the loop |",
        "|---|---|---|",
    ]
    for name, seconds in times.items():
        rate = arguments.pictures / np.median(seconds)
        lines.append(f"| {name} | {rate:.0f} | {np.median(loop / seconds):.2f} |")
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
