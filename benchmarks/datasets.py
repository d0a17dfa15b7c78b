"""A folder of photographs by attri-run, attri-batch, a plain loop, open_clip in a DataLoader, and clip-retrieval.

    python -m benchmarks.datasets BUNDLE PHOTOS [--images 1000] [--large 100] [--rounds 3]
        [--engines PYTHON] [--retrieval PYTHON]

PHOTOS has a folder for each class, and the names of the folders are the labels. The photographs are written as JPEGs
whose shorter side is 480 pixels, so that decoding is work as it is for users, and some with one of 3000, as cameras
write them. BUNDLE is one of the pocket model; it gets a prompt that makes it plain CLIP, for open_clip's own model has
to give the same labels: all of them, except where the best two labels of an image are equally good, or the script
fails. With --fast-jpeg, which computes from other pixels, and of clip-retrieval's features, which are rounded to
float16, the labels that differ are counted.

Each contestant is a process of its own, started as a user starts it, with as many threads and workers as there are
cores; attri-batch also with one thread. Where --engines names the interpreter of an environment with attri[onnx,batch],
Ray and Daft, attri-batch also runs on both, with one worker and with two, of one thread each, which share 8 parts;
clip-retrieval where --retrieval names one that has it (2.45 needs 'setuptools<70' beside it, for it imports
pkg_resources). They take turns. The tables are kept in benchmarks/datasets.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.images import list_images
from benchmarks.common import in_turn, keep
from benchmarks.dataset_peers import LOADER, LOOP, RETRIEVAL, SHARED

FEW = 16  # images of a short turn
TIE = 1e-4  # of scores, which sums of some hundred float32 products in another order do not reach
OUT, ALL, SHORT = "classified.jsonl", "all", "few"
FAST = "attri-batch --fast-jpeg"
PARTS = 8  # that workers share
ROUNDED = (FAST, RETRIEVAL)  # whose labels may be others
EXPLANATION = f"""Images a second: the difference between a turn with all images and one with {FEW}, so that the start
is not in it. Start: a process that classifies {FEW}. Memory: the peak of a process with those that it starts; what they
share counts once. Against the loop: the median of the ratios within a round; all else are medians. Other labels: where
the best two are not equally good."""


class Turn(NamedTuple):
    """What a process took: seconds, and MiB at its peak."""

    seconds: float
    memory: float


class Bench:
    """The contestants, in a folder of their own.

    Args:
        folder: an empty one.
        bundle: of the pocket model.
        photos: a folder for each class.
        images: that are classified, at most.
        side: the shorter one of each, in pixels.
        engines: the interpreter of an environment with Ray and Daft.
        retrieval: that of one with clip-retrieval.

    Attributes:
        images: that there are.
        ties: names of those whose best two labels are equally good.
        others: how many labels each contestant has that are others than the first one's.
        commands: by name; each classifies the images of the folder `{}`.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        photos: Path,
        images: int,
        side: int,
        *,
        engines: str | None = None,
        retrieval: str | None = None,
    ) -> None:
        self.folder, every = folder, list_images(photos)
        self.images = min(images, len(every))
        for part, count in ((ALL, self.images), (SHORT, FEW)):
            (folder / part).mkdir()
            for number in range(count):
                place = number * len(every) // count
                resized(every[place], side).save(folder / part / f"{place:06}.jpg")
        labels, prompt = folder / "labels.txt", folder / "plain.attri"
        names = dict.fromkeys(file.parent.name.replace("_", " ") for file in every)
        labels.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        plain = ["--zero-shot", "--prompt-only", "--base", bundle, "--output", prompt, "--labels", labels]
        subprocess.run(module("attri.export.cli", *plain, "--parity-data", folder / SHORT), check=True)
        model = ["{}", "--bundle", bundle, "--prompt", prompt, "--topk", 2]
        batch = module("attri.runtime.cli.batch", *model, "--output", folder / OUT)

        def peer(name: str, python: str = sys.executable) -> list[str]:
            return [python, *module("benchmarks.dataset_peers", name, bundle, "{}", labels, prompt)[1:]]

        self.commands = {
            LOOP: peer(LOOP),
            "attri-run": module("attri.runtime.cli.run", *model, "--json"),
            "attri-batch": batch,
            "attri-batch --threads 1": [*batch, "--threads", "1"],
            FAST: [*batch, "--fast-jpeg"],
            SHARED: peer(SHARED),
            LOADER: peer(LOADER),
        }
        if engines is not None:
            parts = ["--part-rows", str(math.ceil(self.images / PARTS))]
            for engine, workers in product(("ray", "daft"), (1, 2)):
                words = ["--engine", engine, "--workers", str(workers)]
                self.commands[" ".join(["attri-batch", *words])] = [engines, *batch[1:], *words, *parts]
        if retrieval is not None:
            self.commands[RETRIEVAL] = peer(RETRIEVAL, retrieval)
        self.labels: dict[str, str] = {}
        self.ties: set[str] = set()
        self.others: dict[str, int] = {}

    def turn(self, name: str, part: str) -> Turn:
        """Classify all images or a few; raises AssertionError where a label is another than before."""
        for file in self.folder.glob(f"{OUT}*"):
            file.unlink()
        out = self.folder / f"{OUT}.stdout"
        command = [word.format(self.folder / part) for word in self.commands[name]]
        start = time.perf_counter()
        with out.open("w") as stdout, subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE) as process:
            memory = peak_of(process)
            seconds = time.perf_counter() - start
            assert process.stderr is not None
            assert process.returncode == 0, f"{name}: {process.stderr.read().decode()}"
        self._check(name, part, out.read_text() or (self.folder / OUT).read_text())
        return Turn(seconds, memory)

    def _check(self, name: str, part: str, lines: str) -> None:
        records = {Path(each.get("path") or each["source"]).name: each for each in map(json.loads, lines.splitlines())}
        images = {file.name for file in (self.folder / part).iterdir()}
        assert records.keys() == images, f"{name}: results of {len(records)} of {len(images)} images"
        self.others[name] = 0
        for image, record in records.items():
            first, second = (each["score"] for each in record["top"])
            self.ties |= {image} if first - second < TIE else set()
            wanted = self.labels.setdefault(image, record["label"])
            other = record["label"] != wanted and image not in self.ties
            assert not other or name in ROUNDED, f"{name}: {image} is {record['label']}, not {wanted}"
            self.others[name] += other


def peak_of(process: subprocess.Popen[Any]) -> float:
    """Wait for a process; MiB of it and those that it started, at the most, looked at 20 times a second."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(proportional, family(process.pid))))
        time.sleep(0.05)
    return peak / 2**10


def family(pid: int) -> Iterator[int]:
    """A process, its children and theirs."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            for child in children.read_text().split():
                yield from family(int(child))


def proportional(pid: int) -> int:
    """Resident memory of a process in KiB, with its part of what it shares (PSS); 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0])
    except (OSError, IndexError):
        return 0


def resized(file: Path, side: int) -> Image.Image:
    """A photograph whose shorter side is so long."""
    image = Image.open(file).convert("RGB")
    scale = side / min(image.size)
    return image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC)


def module(name: str, *words: object) -> list[str]:
    """The command line of a module."""
    return [sys.executable, "-m", name, *map(str, words)]


def table(bench: Bench, turns: dict[tuple[str, str], list[Turn]]) -> list[str]:
    """A row for each contestant."""

    def column(name: str, part: str, field: str) -> NDArray[np.float64]:
        return np.array([getattr(turn, field) for turn in turns[name, part]])

    def rate(name: str) -> NDArray[np.float64]:
        return (bench.images - FEW) / (column(name, ALL, "seconds") - column(name, SHORT, "seconds"))

    columns = ["", "images a second", "against the loop", "start, s", "peak memory, MiB", "other labels"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in dict.fromkeys(name for name, _ in turns):
        ratio, start = np.median(rate(name) / rate(LOOP)), np.median(column(name, SHORT, "seconds"))
        memory = np.median(column(name, ALL, "memory"))
        row = [name, f"{np.median(rate(name)):.0f}", f"{ratio:.2f}", f"{start:.1f}", f"{memory:.0f}"]
        lines.append(f"| {' | '.join([*row, str(bench.others[name])])} |")
    return lines


def measure(arguments: argparse.Namespace, images: int, side: int) -> list[str]:
    """A section about photographs of a size."""
    with tempfile.TemporaryDirectory() as folder:
        others = {"engines": arguments.engines, "retrieval": arguments.retrieval}
        bench = Bench(Path(folder), arguments.bundle, arguments.photos, images, side, **others)
        for name in bench.commands:  # whatever is measured or compiled at a first start is not counted
            bench.turn(name, SHORT)
        contestants = {
            (name, part): partial(bench.turn, name, part) for name in bench.commands for part in (SHORT, ALL)
        }
        turns = in_turn(contestants, arguments.rounds)
    about = f"{bench.images} JPEGs, {len(bench.ties)} of them with two labels that are equally good."
    return [f"## Shorter side {side} pixels", "", about, "", *table(bench, turns), ""]


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--large", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", metavar="PYTHON")
    parser.add_argument("--retrieval", metavar="PYTHON")
    arguments = parser.parse_args()
    about = f"The pocket model as plain CLIP, {arguments.rounds} rounds in turn. {' '.join(EXPLANATION.split())}"
    small, large = measure(arguments, arguments.images, 480), measure(arguments, arguments.large, 3000)
    keep(Path(__file__), __doc__, "\n".join([about, "", *small, *large]))


if __name__ == "__main__":
    main()
