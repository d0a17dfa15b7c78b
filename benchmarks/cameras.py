"""Many cameras on one engine: results per second, fairness between them, and how old results are.

    python -m benchmarks.cameras BUNDLE [--seconds 60] [--engines 20,20 40,25]

The pipeline as attri-run has it, with its real threads; only the cameras and the time of the vision graph are modelled.
A run of n images takes a + b n ms, and its outputs are those of a real image. Eight cameras give 15 to 30 frames per
second in bursts of two, as consumer cameras do, and every 4 to 8 s nothing for 450 ms. One dies after a quarter of the
time, and measured is from then on. The script fails where, with batches that take all cameras,

- results per second are not within 5% of N/(a + b N), with N = 7 (pauses take a camera out of 7% of the batches, which
  costs the less the smaller a is to b N),
- the 95th percentile of age is above two runs of the engine,
- Jain's index of fairness, (sum x)^2 / (n sum x^2) of the results of each camera, is not above 0.99 (with any batches),
- or a result of the dead camera comes (likewise).

Beside it, smaller batches; those of one image are what there was before several sources went together. The table is
kept in benchmarks/cameras.md.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime import Classifier
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import SourceError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.text.cache import TextCache
from benchmarks.common import keep

CAMERAS, PAUSE = 8, 0.45
RATES = np.linspace(15, 30, CAMERAS)  # frames per second
LABELS = ["red apple", "bird", "car", "dog", "house"]
SETTLE = 1.0  # seconds after the death, in which what was on its way may come


class ModelledEngine:
    """The vision graph in the time that a model says: a + b n seconds for n images."""

    limits: Mapping[str, int] = {}

    def __init__(self, graph: Path, a: float, b: float) -> None:
        self.description = f"{1000 * a:g} + {1000 * b:g} n ms"
        self._engine, self._a, self._b = OrtEngine(graph, "cpu", threads=1), a, b
        self._first: list[NDArray[Any]] = []
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of the first image that ever came, for each of these."""
        started, count = time.monotonic(), len(inputs["pixels"])
        self._first = self._first or self._engine.run({**inputs, "pixels": inputs["pixels"][:1]})
        self.batches.append(count)
        outputs = [np.repeat(each, count, axis=0) for each in self._first]
        time.sleep(max(0.0, started + self._a + self._b * count - time.monotonic()))
        return outputs

    def close(self) -> None:
        """Nothing is held."""


class Results:
    """A sink that keeps when results came, of which camera, and how old."""

    name, lossless = "results", False
    takes: SinkFilter = "every_frame"

    def __init__(self) -> None:
        self.found: list[tuple[float, str, float]] = []

    def write(self, result: FrameResult) -> None:
        """Note a result."""
        self.found.append((time.monotonic(), result.origin, result.age_ms / 1000))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Outcome:
    """What was measured: results per second, fairness, 95th percentile of age in seconds, mean batch."""

    rate: float
    fairness: float
    age: float
    batch: float
    dead: int


def play(number: int, ends: float, abandoned: threading.Event) -> Iterator[CapturedFrame]:
    """Frames of a camera until it dies or nobody waits any more."""
    dice, rate = random.Random(number), RATES[number]
    image = np.full((48, 64, 3), 20 * number, np.uint8)
    now = time.monotonic() + dice.uniform(0, 0.1)
    pause = now + dice.uniform(4, 8)
    while not abandoned.wait(max(0.0, now - time.monotonic())):
        if now > ends:
            raise SourceError("it is dead", final=True)
        for _ in range(2):
            image = image + np.uint8(1)  # another one each time, or it would count as frozen
            yield CapturedFrame(image, time.time())
        now += 2 / rate
        if now > pause:
            now, pause = now + PAUSE, now + dice.uniform(4, 8)


def measure(bundle: Path, a: float, b: float, limit: int, seconds: float) -> Outcome:
    """Run the pipeline for so long."""
    with Bundle.open(bundle) as opened:
        vision = ModelledEngine(opened.graph(VISION), a, b)
        text = OrtEngine(opened.graph(TEXT), "cpu", threads=1)
        classifier = Classifier(opened, vision, text, LABELS, TextCache())
    classifier(np.zeros((48, 64, 3), np.uint8))
    started = time.monotonic()
    dies = started + seconds / 4

    @contextmanager
    def open_source(spec: SourceSpec, timeout: float, abandoned: threading.Event) -> Iterator[Capture]:
        number = int(spec.uri)
        yield Capture("modelled", play(number, dies if number == 0 else started + seconds + 9, abandoned))

    specs = [SourceSpec(f"camera{number}", "v4l2", str(number)) for number in range(CAMERAS)]
    labels, sink = LiveLabels(classifier, None, apply=False), Results()
    tasks = [[TaskSetup(labels)]] * CAMERAS
    pipeline = Pipeline(specs, tasks, Schedule(), RetryPolicy(), limit, opener=open_source)
    timer = threading.Timer(seconds, pipeline.stop)
    timer.start()
    pipeline.run([sink])
    timer.join()
    begin = dies + SETTLE
    found = [each for each in sink.found if begin < each[0] <= started + seconds]
    counts = np.array([sum(name == spec.name for _, name, _ in found) for spec in specs[1:]], np.float64)
    return Outcome(
        rate=counts.sum() / (started + seconds - begin),
        fairness=float(counts.sum() ** 2 / (len(counts) * (counts**2).sum())),
        age=float(np.percentile([age for _, _, age in found], 95)),
        batch=float(np.mean(vision.batches)),
        dead=sum(name == specs[0].name for _, name, _ in found),
    )


def check(outcome: Outcome, a: float, b: float, limit: int) -> None:
    """Raise AssertionError where one of the claims does not hold."""
    assert outcome.fairness > 0.99, f"Jain's index is {outcome.fairness:.4f}"
    assert outcome.dead == 0, f"{outcome.dead} results of the dead camera"
    if limit == CAMERAS:
        wanted = (CAMERAS - 1) / (a + b * (CAMERAS - 1))
        assert abs(outcome.rate / wanted - 1) < 0.05, f"{outcome.rate:.1f} results per second, not {wanted:.1f}"
        assert outcome.age <= 2 * (a + b * CAMERAS), f"the 95th percentile of age is {outcome.age:.3f} s"


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--engines", nargs="+", default=["20,20", "40,25"], metavar="A,B", help="ms")
    arguments = parser.parse_args()
    lines = [
        f"{CAMERAS} cameras at {RATES[0]:g} to {RATES[-1]:g} frames per second, {arguments.seconds:g} s each; the first"
        " dies after a quarter. Runs are the engine's: age divided by a + b n with all cameras in a batch.",
        "",
        "| a + b n, ms | batch at most | mean batch | results/s | of N/(a + b N) | Jain | 95% of ages, ms | runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for engine in arguments.engines:
        a, b = (float(each) / 1000 for each in engine.split(","))
        for limit in (1, 4, CAMERAS):
            found = measure(arguments.bundle, a, b, limit, arguments.seconds)
            check(found, a, b, limit)
            together = min(limit, CAMERAS - 1)
            lines.append(
                f"| {1000 * a:g} + {1000 * b:g} n | {limit} | {found.batch:.1f} | {found.rate:.1f}"
                f" | {found.rate * (a + b * together) / together:.1%} | {found.fairness:.4f} | {1000 * found.age:.0f}"
                f" | {found.age / (a + b * CAMERAS):.2f} |"
            )
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
