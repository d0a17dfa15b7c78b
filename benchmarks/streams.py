"""Results per second of eight MJPEG streams: attri-run, and the loop over OpenCV that one would write by hand.

    python -m benchmarks.streams BUNDLE [BUNDLE ...] [--seconds 20] [--streams 8]

A server in this process sends the streams over loopback, 30 frames per second each. In turn they go through attri-run
with one frame to a run (as before sources shared them), with all of them, with as many as it chooses itself, and in
a loop that reads a frame of each stream by OpenCV and gives all of them to the classifier as one list. The first three
seconds do not count. Age is what attri-run says; the loop cannot know it, for its frames wait in the buffers of OpenCV.
The table is kept in benchmarks/streams.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np

from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.image_batches import ImageInput
from benchmarks.common import keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.streams import MjpegServer

SETTLE = 3.0  # seconds
LOOP = "a loop over OpenCV"


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--loop", nargs="+", help=argparse.SUPPRESS)  # the addresses: this process is the loop
    arguments = parser.parse_args()
    if arguments.loop:
        loop(arguments.bundles[0], arguments.loop)
        return
    lines = [
        f"{arguments.streams} streams, {arguments.seconds:g} s each. Batch: frames of a run, at most.",
        "",
        "| model | | results/s | 95% of ages, ms |",
        "|---|---|---|---|",
    ]
    for bundle in arguments.bundles:
        server = MjpegServer()
        uris = [server.uri(f"/cam{number}") for number in range(arguments.streams)]
        ours = [sys.executable, "-m", "attri.runtime.cli.run", *uris, "--json", "--bundle", str(bundle)]
        commands = {
            "attri-run --max-batch 1": [*ours, "--max-batch", "1"],
            f"attri-run --max-batch {arguments.streams}": [*ours, "--max-batch", str(arguments.streams)],
            "attri-run": ours,
            LOOP: [sys.executable, "-m", "benchmarks.streams", str(bundle), "--loop", *uris],
        }
        try:
            for name, command in commands.items():
                rate, ages = measure(command, arguments.seconds)
                age = f"{np.percentile(ages, 95):.0f}" if ages else "-"
                model = Bundle.open(bundle).manifest.model["name"]
                lines.append(f"| {model} | {name} | {rate:.1f} | {age} |")
        finally:
            server.close()
    keep(Path(__file__), __doc__, "\n".join(lines))


def measure(command: list[str], seconds: float) -> tuple[float, list[float]]:
    """Results per second of a command that prints an object for each, and their ages in ms."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = list(read(process.stdout, seconds))
        process.terminate()
    return len(found) / seconds, [age for age in found if age is not None]


def read(stream: IO[str], seconds: float) -> list[float | None]:
    """Ages of the results that come in so many seconds, after a moment."""
    begin, found = float("inf"), []
    for line in stream:
        now = time.monotonic()
        begin = min(begin, now + SETTLE)
        if now > begin + seconds:
            break
        if now > begin:
            found.append(json.loads(line).get("age_ms"))
    return found


def loop(bundle: Path, uris: list[str]) -> None:
    """Read a frame of each stream, classify them, print a line for each; for ever."""
    import cv2

    with Classifier.load(bundle, batch=len(uris)) as classifier:
        captures = [cv2.VideoCapture(uri) for uri in uris]
        while True:
            frames = [capture.read()[1] for capture in captures]
            images: list[ImageInput] = [np.ascontiguousarray(frame[..., ::-1], np.uint8) for frame in frames]
            for uri, found in zip(uris, classifier(images), strict=True):
                print(json.dumps({"source": uri, "label": found.label}), flush=True)


if __name__ == "__main__":
    main()
