"""Results per second of eight MJPEG or RTSP streams: attri-run, a loop over OpenCV, and one over ultralytics' loader.

    python -m benchmarks.streams BUNDLE [BUNDLE ...] [--seconds 20] [--streams 8] [--rounds 3] [--ultralytics PYTHON]

Servers on this machine send the streams over loopback, 30 frames per second each: MJPEG, and H.264 by RTSP where the
system's Python has GStreamer (.ci/packages.txt). In turn, round by round, they go through attri-run with one frame to
a run (as before sources shared them), with all of them, with as many as it chooses itself; through a loop that reads
a frame of each stream by OpenCV and gives all of them to the classifier as one list; and through the same loop over
ultralytics.data.loaders.LoadStreams, where --ultralytics names the interpreter of an environment that has it. That
loader reads each stream in a thread, and waits until it has a new frame of all. The first three seconds do not count.
Age is what attri-run says; the loops cannot know it, for frames wait in the buffers of OpenCV. The table is kept in
benchmarks/streams.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.image_batches import ImageInput
from benchmarks.common import in_turn, keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.streams import MjpegServer, RtspServer

SETTLE, START = 3.0, 90.0  # seconds: that do not count, and that a contestant may take to begin
LOOP, LOADER = "a loop over OpenCV", "a loop over ultralytics' LoadStreams"


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ultralytics", metavar="PYTHON")
    for name in ("--loop", "--loader"):  # the addresses: this process is that loop
        parser.add_argument(name, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop or arguments.loader:
        batches = read_each(arguments.loop) if arguments.loop else load_streams(arguments.loader)
        classify(arguments.bundles[0], batches, arguments.loop or arguments.loader)
        return
    lines = [
        f"{arguments.streams} streams, {arguments.rounds} rounds of {arguments.seconds:g} s in turn; medians."
        " Batch: frames of a run, at most.",
        "",
        "| model | streams | | results/s | 95% of ages, ms |",
        "|---|---|---|---|---|",
    ]
    for bundle in arguments.bundles:
        model = Bundle.open(bundle).manifest.model["name"]
        for kind in ("MJPEG", "RTSP"):
            runs = {
                name: partial(measure, kind, arguments.streams, command, arguments.seconds)
                for name, command in commands(bundle, arguments.streams, arguments.ultralytics).items()
            }
            lines += [f"| {model} | {kind} | {row}" for row in rows(in_turn(runs, arguments.rounds))]
    keep(Path(__file__), __doc__, "\n".join(lines))


@contextmanager
def serving(kind: str, count: int) -> Iterator[list[str]]:
    """The addresses of so many streams; each turn has a server of its own, since clients leave them without a word."""
    if kind == "MJPEG":
        mjpeg = MjpegServer()
        yield [mjpeg.uri(f"/cam{number}") for number in range(count)]
        mjpeg.close()
    else:
        rtsp = RtspServer()
        yield [rtsp.uri("/own")] * count
        rtsp.kill()


def commands(bundle: Path, streams: int, ultralytics: str | None) -> dict[str, list[str]]:
    """The command line of each contestant; the addresses come behind it."""
    ours = [sys.executable, "-m", "attri.runtime.cli.run", "--json", "--bundle", str(bundle)]
    here = ["-m", "benchmarks.streams", str(bundle)]
    found = {
        "attri-run --max-batch 1": [*ours, "--max-batch", "1"],
        f"attri-run --max-batch {streams}": [*ours, "--max-batch", str(streams)],
        "attri-run": ours,
        LOOP: [sys.executable, *here, "--loop"],
    }
    return found if ultralytics is None else found | {LOADER: [ultralytics, *here, "--loader"]}


class Measured(NamedTuple):
    """What came of a contestant in a round: results per second, and ages in ms."""

    rate: float
    ages: list[float]


def rows(found: dict[str, list[Measured]]) -> Iterator[str]:
    """The end of a row of the table for each contestant."""
    for name, rounds in found.items():
        rate = np.median([each.rate for each in rounds])
        ages = [np.percentile(each.ages, 95) for each in rounds if each.ages]
        yield f"{name} | {rate:.1f} | {f'{np.median(ages):.0f}' if ages else '-'} |"


def measure(kind: str, streams: int, command: list[str], seconds: float) -> Measured:
    """Run a command that prints an object for each result, for so many seconds after a moment."""
    with (
        serving(kind, streams) as uris,
        subprocess.Popen([*command, *uris], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
    ):
        assert process.stdout is not None
        late = threading.Timer(START + seconds, process.kill)
        late.start()
        found = list(read(process.stdout, seconds))
        late.cancel()
        process.kill()
    return Measured(len(found) / seconds, [each["age_ms"] for each in found if "age_ms" in each])


def read(stream: IO[str], seconds: float) -> Iterator[dict[str, Any]]:
    """The results that come in so many seconds, after a moment."""
    begin = float("inf")
    for line in stream:
        if not line.startswith("{"):  # ultralytics says what it opens
            continue
        now = time.monotonic()
        begin = min(begin, now + SETTLE)
        if now > begin + seconds:
            break
        if now > begin:
            yield json.loads(line)


def classify(bundle: Path, batches: Iterator[list[NDArray[np.uint8]]], uris: list[str]) -> None:
    """Classify a frame of each stream, and print a line for each; for ever."""
    with Classifier.load(bundle, batch=len(uris)) as classifier:
        for frames in batches:
            images: list[ImageInput] = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
            for uri, found in zip(uris, classifier(images), strict=True):
                print(json.dumps({"source": uri, "label": found.label}), flush=True)


def read_each(uris: list[str]) -> Iterator[list[NDArray[np.uint8]]]:
    """The next frame of each stream, by OpenCV."""
    import cv2

    captures = [cv2.VideoCapture(uri) for uri in uris]
    while True:
        yield [np.asarray(capture.read()[1], np.uint8) for capture in captures]


def load_streams(uris: list[str]) -> Iterator[list[NDArray[np.uint8]]]:
    """The newest frame of each stream, by ultralytics."""
    from ultralytics.data.loaders import LoadStreams

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.streams"
        file.write_text("\n".join(uris))
        for _, images, _ in LoadStreams(str(file)):
            yield images


if __name__ == "__main__":
    main()
