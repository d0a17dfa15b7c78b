"""The commands on an idle machine and beside another program that computes, in turn.

    python -m benchmarks.neighbour [--rounds 5] [--busy N] [--epochs 4] [--images 200]

The other program is N processes that spin, one for each core by default: a command's fair share is then half of the
machine, and twice the time. Each command is a process of its own on the embedded images, started as a user starts it,
and once more as if attri left waiting to the libraries (GNU OpenMP's threads then spin while they wait). Whatever runs
beside them, the commands must give the same prompt, graphs and labels, or the script fails. The table is kept in
benchmarks/neighbour.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import PROMPT, TEXT, VISION
from attri.runtime.images import list_images
from attri.runtime.prompt import Prompt
from attri.train.pocket import IMAGES
from benchmarks.common import CORES, in_turn, keep, timed

SPINNING = {"GOMP_SPINCOUNT": "300000"}  # libgomp's own number where no policy is set; attri then sets none
IDLE, BESIDE = "idle", "beside"
RUN, BUNDLE = "run", "bundle"


class Turn(NamedTuple):
    """One command under one condition."""

    command: str
    where: str  # idle or beside
    spins: bool  # whether waiting is left to the libraries


class Bench:
    """The commands in a folder of their own, with a run, a bundle and images to work on.

    Args:
        folder: an empty one.
        epochs: of a training.
        images: that are classified.
        busy: processes of the other program.
        bundle: for attri-run alone; None measures all commands.
    """

    def __init__(self, folder: Path, epochs: int, images: int, busy: int, bundle: Path | None = None) -> None:
        self.folder, self.busy = folder, busy
        files = list_images(IMAGES / "test")
        (folder / "images").mkdir()
        for number in range(images):
            shutil.copy(files[number % len(files)], folder / "images" / f"{number:05}.png")
        self.words = {
            "attri-train": ["attri.train.cli", "--epochs", str(epochs), "--output", "new"],
            "attri-export": ["attri.export.cli", RUN, "--output", "new"],
            "attri-run": ["attri.runtime.cli.run", "images", "--bundle", str(bundle or BUNDLE), "--json"],
        }
        self.commands = [*self.words] if bundle is None else ["attri-run"]
        self.results = {"attri-train": ["prompt.safetensors"], "attri-export": [TEXT, VISION]}
        self.answers: dict[str, str] = {}
        for command, name in (("attri-train", RUN), ("attri-export", BUNDLE)):
            if command in self.commands:
                self.run(command)
                (folder / "new").rename(folder / name)

    def run(self, command: str, spins: bool = False) -> None:
        """Run a command; raises AssertionError where it fails, or gives something else than before."""
        shutil.rmtree(self.folder / "new", ignore_errors=True)
        environment = os.environ | (SPINNING if spins else {})
        words = [sys.executable, "-m", *self.words[command]]
        done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        parts = [(self.folder / "new" / name).read_bytes() for name in self.results.get(command, [])]
        records = [json.loads(line) for line in done.stdout.splitlines()] if command == "attri-run" else []
        parts += [f"{record['source']} {record['label']} {record['score']}\n".encode() for record in records]
        if command == "attri-export":  # the file itself holds the time
            parts += [
                tensor.tobytes() for _, tensor in sorted(Prompt.read(self.folder / "new" / PROMPT).tensors.items())
            ]
        answer = hashlib.sha256(b"".join(parts)).hexdigest()
        assert self.answers.setdefault(command, answer) == answer, f"{command} gives something else"

    def turn(self, command: str, where: str, spins: bool) -> float:
        """Seconds of a command."""
        with busy(self.busy if where == BESIDE else 0):
            return timed(partial(self.run, command, spins)) / 1000


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes compute meanwhile."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(bench: Bench, rounds: int) -> dict[Turn, NDArray[np.float64]]:
    """Seconds [rounds] of every command under every condition, in turn."""
    turns = [
        Turn(command, where, spins) for command in bench.commands for spins in (False, True) for where in (IDLE, BESIDE)
    ]
    found = in_turn({turn: partial(bench.turn, *turn) for turn in turns}, rounds)
    return {turn: np.array(seconds) for turn, seconds in found.items()}


def table(times: dict[Turn, NDArray[np.float64]]) -> list[str]:
    """A row for each command."""
    lines = [
        "| | idle, s | beside, s | beside over idle | libraries: beside over idle | idle: attri over libraries |",
        "|---|---|---|---|---|---|",
    ]
    for command in dict.fromkeys(turn.command for turn in times):
        idle, beside = times[Turn(command, IDLE, False)], times[Turn(command, BESIDE, False)]
        spun, spun_beside = times[Turn(command, IDLE, True)], times[Turn(command, BESIDE, True)]
        ratios = [float(np.median(ratio)) for ratio in (beside / idle, spun_beside / spun, idle / spun)]
        seconds = f"{np.median(idle):.1f} | {np.median(beside):.1f}"
        lines.append(f"| {command} | {seconds} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return lines


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=CORES, help="processes of the other program")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.epochs, arguments.images, arguments.busy)
        times = measure(bench, arguments.rounds)
    lines = [
        f"The pocket model, {arguments.epochs} epochs, {arguments.images} images; the other program is"
        f" {arguments.busy} processes that spin; {arguments.rounds} rounds in turn. Prompts, graphs and labels are the"
        " same in all cases. Seconds are medians; ratios are medians of the ratios within a round. Libraries: as if"
        " attri left waiting to them.",
        "",
        *table(times),
    ]
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
