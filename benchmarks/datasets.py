"""A folder of photographs by attri-run, attri-batch, a plain loop, and open_clip in a DataLoader.

    python -m benchmarks.datasets BUNDLE PHOTOS [--images 2000] [--side 480] [--rounds 3]

PHOTOS has a folder for each class, and the names of the folders are the labels. The photographs are written as JPEGs
whose shorter side is 480 pixels, so that decoding is work as it is for users. BUNDLE is one of the pocket model; it
gets a prompt that makes it plain CLIP, for open_clip's own model has to give the same labels: all of them, except where
the best two labels of an image are equally good, or the script fails.

Each contestant is a process of its own, started as a user starts it, with as many threads and workers as there are
cores; attri-batch also with one thread and, where Ray is installed, on Ray. They take turns. The table is kept in
benchmarks/datasets.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.images import list_images
from attri.train import pocket
from benchmarks.common import CORES, in_turn, keep

FEW, BATCH = 16, 64  # images of a short turn; of the DataLoader at once
TIE = 1e-4  # of scores, which sums of some hundred float32 products in another order do not reach
TEMPLATE = "a photo of a {}."
LOOP, PEER = "a plain loop", "open_clip in a DataLoader"
OUT, ALL, SHORT = "classified.jsonl", "all", "few"
EXPLANATION = f"""Labels are the same in all cases, except for images whose best two labels are equally good. Images a
second: the difference between a turn with all images and one with {FEW}, so that the start is not in it. Start: a
process that classifies {FEW}. Memory: the peak of a process with those that it starts; what they share counts once.
Against the loop: the median of the ratios within a round; all else are medians."""


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

    Attributes:
        images: that there are.
        ties: names of those whose best two labels are equally good.
        commands: by name; each classifies the images of the folder `{}`.
    """

    def __init__(self, folder: Path, bundle: Path, photos: Path, images: int, side: int) -> None:
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
        own = module("benchmarks.datasets", bundle, "{}", "--labels", labels, "--prompt", prompt, "--only")
        self.commands = {
            LOOP: [*own, LOOP],
            "attri-run": module("attri.runtime.cli.run", *model, "--json"),
            "attri-batch": batch,
            "attri-batch --threads 1": [*batch, "--threads", "1"],
            PEER: [*own, PEER],
        }
        if find_spec("ray"):
            self.commands["attri-batch --engine ray"] = [*batch, "--engine", "ray", "--workers", str(CORES)]
        self.labels: dict[str, str] = {}
        self.ties: set[str] = set()

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
        for image, record in records.items():
            first, second = (each["score"] for each in record["top"])
            self.ties |= {image} if first - second < TIE else set()
            wanted = self.labels.setdefault(image, record["label"])
            assert record["label"] == wanted or image in self.ties, (
                f"{name}: {image} is {record['label']}, not {wanted}"
            )


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


def loop(bundle: Path, folder: Path, labels: list[str], prompt: Path) -> Iterator[list[tuple[str, float]]]:
    """The best labels of each image, with what the documentation of attri shows first."""
    from attri.runtime import Classifier

    classifier = Classifier.load(bundle, labels, prompt=prompt)
    for file in list_images(folder):
        yield classifier(Image.open(file)).top(2)


def peer(folder: Path, labels: list[str]) -> Iterator[list[tuple[str, float]]]:
    """The best labels of each image, as one writes it with open_clip and PyTorch."""
    import torch
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transform import image_transform
    from torch.utils.data import DataLoader

    model, tokenize = pocket.load(), SimpleTokenizer(context_length=pocket.CONFIG["text_cfg"]["context_length"])
    transform = image_transform(model.visual.image_size, is_train=False, mean=pocket.MEAN, std=pocket.STD)
    with torch.inference_mode():
        texts = model.encode_text(tokenize([TEMPLATE.format(label) for label in labels]), normalize=True)
        photographs: Any = Photographs(list_images(folder), transform)
        for pixels in DataLoader(photographs, BATCH, num_workers=CORES):
            scores = model.logit_scale.exp() * model.encode_image(pixels, normalize=True) @ texts.T
            best = scores.softmax(1).topk(2)
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                yield [(labels[number], value) for number, value in zip(numbers, values, strict=True)]


class Photographs:
    """A data set as PyTorch has them."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        """Pixels [3, S, S]."""
        return self.transform(Image.open(self.files[number]))


def write(folder: Path, found: Iterable[list[tuple[str, float]]]) -> None:
    """Print a line of JSON for each image, as the commands do."""
    for file, top in zip(list_images(folder), found, strict=True):
        best = [{"label": label, "score": score} for label, score in top]
        print(json.dumps({"source": str(file), "label": best[0]["label"], "top": best}))


def table(images: int, turns: dict[tuple[str, str], list[Turn]]) -> list[str]:
    """A row for each contestant."""

    def column(name: str, part: str, field: str) -> NDArray[np.float64]:
        return np.array([getattr(turn, field) for turn in turns[name, part]])

    def rate(name: str) -> NDArray[np.float64]:
        return (images - FEW) / (column(name, ALL, "seconds") - column(name, SHORT, "seconds"))

    lines = ["| | images a second | against the loop | start, s | peak memory, MiB |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(name for name, _ in turns):
        ratio, start = np.median(rate(name) / rate(LOOP)), np.median(column(name, SHORT, "seconds"))
        memory = np.median(column(name, ALL, "memory"))
        lines.append(f"| {name} | {np.median(rate(name)):.0f} | {ratio:.2f} | {start:.1f} | {memory:.0f} |")
    return lines


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("--labels", "--prompt", "--only"):  # of the processes that this script starts
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        labels = Path(arguments.labels).read_text(encoding="utf-8").splitlines()
        photos = arguments.photos
        ours = arguments.only == LOOP
        write(photos, loop(arguments.bundle, photos, labels, arguments.prompt) if ours else peer(photos, labels))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.bundle, arguments.photos, arguments.images, arguments.side)
        for name in bench.commands:  # whatever is measured or compiled at a first start is not counted
            bench.turn(name, SHORT)
        contestants = {
            (name, part): partial(bench.turn, name, part) for name in bench.commands for part in (SHORT, ALL)
        }
        turns = in_turn(contestants, arguments.rounds)
    about = (
        f"The pocket model as plain CLIP, {bench.images} JPEGs, shorter side {arguments.side} pixels,"
        f" {arguments.rounds} rounds in turn; {len(bench.ties)} images have two labels that are equally good."
    )
    keep(Path(__file__), __doc__, "\n".join([about, " ".join(EXPLANATION.split()), "", *table(bench.images, turns)]))


if __name__ == "__main__":
    main()
