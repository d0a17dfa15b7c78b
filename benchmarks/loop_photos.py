"""The loop on photographs: do collected images of a dark corner of a shop teach more than random ones?

    python -m benchmarks.loop_photos GROCERY [--work runs/benchmark-loop-photos] [--seeds 5] [--labels 64]

GROCERY is the unpacked archive of the Grocery Store Dataset (labels.csv, train, val, test). Its photographs do not say
in which shop they were taken, so the shift is made: each test photograph is seen by a camera that hangs askew in a dark
corner (`dark_corner`). The prompt in use knows eight bright photographs of each of the 24 coarse classes that have the
most; the rest is as in benchmarks.loop, but that the stream shows each photograph once.

The result is a section of benchmarks/loop.md. What is done is kept in --work: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from attri.runtime.images import load_image
from attri.train.config import TrainConfig
from attri.train.data import read_data
from attri.train.data.dataset import LabelledImage
from benchmarks.common import keep_section
from benchmarks.loop import AUGMENTATIONS, CHOICES, PAGE, PHOTOS, Bench, shift
from benchmarks.loop_tables import STUDENT, shift_table

CLASSES, SHOTS = 24, 8
WALL = (40, 36, 32)  # colour around a photograph that is turned


def dark_corner(image: Image.Image, seed: str) -> Image.Image:
    """A photograph as a camera in a dark corner sees it: turned, out of focus, dim, under a yellow lamp, and noisy."""
    draw = random.Random(seed)
    turned = image.convert("RGB").rotate(draw.uniform(-25, 25), Image.Resampling.BICUBIC, fillcolor=WALL)
    soft = turned.filter(ImageFilter.GaussianBlur(draw.uniform(0.5, 1.5)))
    light = draw.uniform(0.2, 0.45) * np.array([1, 0.85, 0.6])
    noise = np.random.default_rng(draw.getrandbits(32)).normal(0, 5, (*soft.size[::-1], 3))
    return Image.fromarray((np.asarray(soft) * light + noise).clip(0, 255).astype(np.uint8))


def split(grocery: Path, work: Path) -> tuple[Path, list[dict[str, str]]]:
    """A CSV file of what the prompt in use is trained and tested on, and the rows of the photographs to shift."""
    with (grocery / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    most = Counter(row["coarse_class"] for row in rows).most_common(CLASSES)
    chosen = [row for row in rows if row["coarse_class"] in dict(most)]
    work.mkdir(parents=True, exist_ok=True)
    table = work / "known.csv"
    parts = {"train": "train", "val": "test"}
    with table.open("w", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "split"])
        lines.writerows(
            [(grocery / row["file"]).resolve(), row["coarse_class"], parts[row["split"]]]
            for row in chosen
            if row["split"] in parts
        )
    return table, [row for row in chosen if row["split"] == "test"]


def main() -> None:
    """Parse the command line, measure what is missing, and keep the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grocery", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-loop-photos"))
    parser.add_argument("--seeds", type=int, default=5, choices=[degrees + 1 for degrees in STUDENT])
    parser.add_argument("--labels", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table, rows = split(arguments.grocery, arguments.work)
    config = TrainConfig(shots=SHOTS, augmentations=AUGMENTATIONS)
    known = read_data(table, shots=SHOTS, seed=config.seed)
    shifted = []
    (arguments.work / "shifted").mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        file = arguments.work / f"shifted/{number:04}.png"
        if not file.exists():
            dark_corner(load_image(arguments.grocery / row["file"]), row["file"]).save(file)
        shifted.append(LabelledImage(file, known.classes.index(row["coarse_class"])))
    bench = Bench(arguments.work, known, shifted, config, views=1)
    seeds, labels = range(1, arguments.seeds + 1), arguments.labels
    shifts = [bench.once(f"shift {seed} {labels}", partial(shift, bench, seed, labels)) for seed in seeds]
    lines = [
        f"{len(seeds)} seeds, intervals as above. Photographs of the Grocery Store Dataset. They do not say in which"
        " shop they were taken, so the corner is made: each photograph is turned by up to 25 degrees, out of focus, at"
        " 20 to 45% of its light under a yellow lamp, and noisy (`dark_corner`). Prompt in use: the"
        f" {len(known.classes)} coarse classes with the most photographs, {SHOTS} bright ones of each, which pocket's"
        f" own training has seen too. Tested on {shifts[0]['test']} photographs in the corner that the stream does not"
        f" show, and (as old style) on {len(known.test)} bright ones that nobody was trained on.",
        "",
        *shift_table(shifts, list(CHOICES)),
    ]
    keep_section(PAGE, PHOTOS, "\n".join(lines))


if __name__ == "__main__":
    main()
