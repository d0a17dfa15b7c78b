"""Resident memory of attri-run over thousands of frames while its labels change.

    python benchmarks/memory.py BUNDLE [--frames 5000]

Real pictures go into its standard input as JPEGs, and after every 100 results the labels file is another. Memory is
read from /proc; after frame 500 it may grow by less than 20 MB, or the script fails.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from PIL import Image

from attri.runtime.images import list_images
from attri.train.pocket import IMAGES

SETTLED, EVERY, MOST = 500, 100, 20.0  # frames, frames, MB
THINGS = ["apple", "bird", "car", "dog", "house", "shoe", "tree", "boat", "fish", "star"]


def jpegs() -> list[bytes]:
    result = []
    for path in list_images(IMAGES / "train"):
        stream = io.BytesIO()
        Image.open(path).convert("RGB").save(stream, "JPEG")
        result.append(stream.getvalue())
    return result


def feed(target: IO[bytes], frames: int) -> None:
    pictures = jpegs()
    with target:
        for number in range(frames):
            target.write(pictures[number % len(pictures)])


def resident(pid: int) -> float:
    """MB"""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=5000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "labels.txt"
        labels.write_text("bird\n")
        command = [sys.executable, "-m", "attri.runtime.cli", "-", "--bundle", str(arguments.bundle)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*command, "--labels", str(labels), "--json"], **pipes) as process:
            threading.Thread(target=feed, args=(process.stdin, arguments.frames), daemon=True).start()
            memory = {}
            for number, _ in enumerate(process.stdout, start=1):
                if number % EVERY == 0:
                    memory[number] = resident(process.pid)
                    labels.write_text("".join(f"{thing} number {number}\n" for thing in THINGS))
    assert process.returncode == 0, f"attri-run ended with {process.returncode}"
    assert number == arguments.frames, f"{number} results of {arguments.frames} frames"
    grown = max(each for frame, each in memory.items() if frame > SETTLED) - memory[SETTLED]
    print(f"{number} frames: {memory[SETTLED]:.1f} MB after frame {SETTLED}, {grown:.1f} MB more at most later")
    assert grown < MOST


if __name__ == "__main__":
    main()
