"""Cameras while a release is checked: results per second and their age, without and with a check beside them.

    python -m benchmarks.checks BUNDLE [--seconds 15] [--rounds 6]

The pipeline as attri-run has it classifies two modelled cameras, with the sink that serves updates. In turn, round by
round, nothing else happens, the process of a check runs over and over as attri-bundle starts it, or frames are saved
for the shadow. Once on all cores, and once where everything has to share one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attri.fleet.device.check import Check
from attri.runtime import Classifier
from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.deliver.updates.exchange import Exchange, TaskSettings
from attri.runtime.deliver.updates.sink import UpdatesSink
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup
from benchmarks.common import in_turn, keep

CAMERAS, RATE = 2, 15
HEIGHT, WIDTH = 720, 1280


class Results:
    """A sink that keeps when results came, and how old."""

    name, lossless = "results", False
    takes: SinkFilter = "every_frame"

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def write(self, result: FrameResult) -> None:
        """Note a result."""
        self.found.append((time.monotonic(), result.age_ms))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Window:
    """What was measured: results per second, 95th percentile of age in milliseconds, checks that ended."""

    rate: float
    age: float
    checks: int = 0


def play(number: int, abandoned: threading.Event) -> Iterator[CapturedFrame]:
    """Frames of a camera: another one each time, or it would count as frozen."""
    image = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    due = time.monotonic()
    while not abandoned.wait(max(0.0, due - time.monotonic())):
        image = np.roll(image, 16, axis=1)
        yield CapturedFrame(image, time.time())
        due = max(due + 1 / RATE, time.monotonic())


@contextmanager
def open_source(spec: SourceSpec, timeout: float, abandoned: threading.Event) -> Iterator[Capture]:
    """A modelled camera."""
    yield Capture("modelled", play(int(spec.uri), abandoned))


class Cameras:
    """The pipeline at work, in a thread of its own."""

    def __init__(self, bundle: Path, exchange: Exchange) -> None:
        self.results, self.exchange = Results(), exchange
        classifier = Classifier.load(bundle, backend="onnxruntime", device="cpu", threads=1)
        specs = [SourceSpec(f"camera{number}", "v4l2", str(number)) for number in range(CAMERAS)]
        tasks = [[TaskSetup(LiveLabels(classifier, None, apply=False))]] * CAMERAS
        self._pipeline = Pipeline(specs, tasks, Schedule(), RetryPolicy(), CAMERAS, opener=open_source)
        sinks = [self.results, UpdatesSink(exchange, lambda _: [TaskSettings()])]
        self._thread = threading.Thread(target=self._pipeline.run, args=(sinks,))
        self._thread.start()
        time.sleep(3.0)  # the first frames encode the labels

    def window(self, seconds: float, checks: int = 0) -> Window:
        """What comes within so many seconds from now."""
        began, first = time.monotonic(), len(self.results.found)
        time.sleep(seconds)
        ages = [age for _, age in self.results.found[first:]]
        return Window(len(ages) / (time.monotonic() - began), float(np.percentile(ages, 95)), checks)

    def close(self) -> None:
        """Stop it."""
        self._pipeline.stop()
        self._thread.join()


def beside_checks(cameras: Cameras, bundle: Path, seconds: float) -> Window:
    """A window in which the process of a check is started again whenever it ends."""
    command = [sys.executable, "-m", "attri.fleet.device.check", str(bundle), str(bundle)]
    command.append(json.dumps(Check("onnxruntime", "cpu", 1).to_dict()))
    over, done = threading.Event(), []

    def check() -> None:
        while not over.is_set():
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    if over.wait(0.02):
                        process.kill()
                        return
            assert process.returncode == 0
            done.append(process.returncode)

    thread = threading.Thread(target=check)
    thread.start()
    window = cameras.window(seconds)
    over.set()
    thread.join()
    return Window(window.rate, window.age, len(done))


def beside_shadow(cameras: Cameras, seconds: float) -> Window:
    """A window in which frames are saved for a check."""
    cameras.exchange.ask_for_frames(100_000)
    window = cameras.window(seconds)
    saved = len(cameras.exchange.saved_frames())
    cameras.exchange.withdraw()
    return Window(window.rate, window.age, saved)


def measure(bundle: Path, seconds: float, rounds: int) -> Iterator[str]:
    """Rows of the table, on the cores that this process may use now."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        cameras = Cameras(bundle, Exchange(Path(folder)))
        contestants: dict[str, Callable[[], Window]] = {
            "nothing": lambda: cameras.window(seconds),
            "checks, one after the other": lambda: beside_checks(cameras, bundle, seconds),
            "frames are saved": lambda: beside_shadow(cameras, seconds),
        }
        try:
            found = in_turn(contestants, rounds, rest=1.0)
        finally:
            cameras.close()
    for name, windows in found.items():
        pairs = list(zip(windows, found["nothing"], strict=True))
        rate = np.median([each.rate for each in windows])
        ratio = np.median([each.rate / alone.rate for each, alone in pairs])
        age, older = (np.median([each.age for each in group]) for group in zip(*pairs, strict=True))
        count = sum(each.checks for each in windows)
        yield f"| {cores} | {name} | {rate:.1f} | {ratio:.1%} | {age:.0f} | {age / older:.2f} | {count or ''} |"


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    lines = [
        f"{CAMERAS} cameras of {WIDTH} x {HEIGHT} at {RATE} frames per second, one thread, {arguments.rounds} rounds of"
        f" {arguments.seconds:g} s each. Medians over the rounds; ratios within a round. The last column counts checks"
        " that ended, and frames that were saved.",
        "",
        "| cores | beside the cameras | results/s | of those alone | 95% of ages, ms | of those alone | done |",
        "|---|---|---|---|---|---|---|",
    ]
    every = os.sched_getaffinity(0)
    for cores in (every, {min(every)}):
        os.sched_setaffinity(0, cores)  # of the threads and processes that start from now on
        lines += measure(arguments.bundle, arguments.seconds, arguments.rounds)
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
