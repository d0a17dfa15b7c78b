"""Several tasks on one vision pass: what 2 and 4 cost, to one.

    python -m benchmarks.tasks [--models pocket,ViT-B-32,ViT-B-16] [--rounds 15]

One source, 1, 2 and 4 tasks in turn in one process. Each task has a prompt of its own with 16 pool entries, and labels
of its own, 25 of ImageNet's names. A frame is an image in memory: preprocessing, the vision graph, and each task's text
features, computed (uncached) or known (cached). Beside them, what as many classifiers cost that each run the vision
graph. Each task must say what a classifier with its prompt alone says: the same labels, entries and bits of text
features, scores within 1e-5. The table is kept in benchmarks/tasks.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT
from attri.runtime.images import list_images, load_image
from attri.runtime.prompt import Prompt
from attri.train.pocket import IMAGES
from benchmarks.common import CORES, in_turn, names, timed
from benchmarks.models import WEIGHTS, command_line, export_random, keep_table

COUNTS = (1, 2, 4)
LABELS = 25  # of a task
CHECKED = 8  # images


def make_prompts(first: Prompt) -> dict[str, Prompt]:
    """As many prompts as there are tasks at most, with other keys, tables and labels."""
    random, labels = np.random.default_rng(0), names(LABELS * max(COUNTS))
    prompts = {}
    for number in range(max(COUNTS)):
        tensors = {name: random.permutation(tensor, axis=-1) for name, tensor in first.tensors.items()}
        tensors["keys"] = random.permuted(first.tensors["keys"], axis=1)  # of unit columns
        facts = dataclasses.replace(first.facts, labels=labels[number :: max(COUNTS)], threshold=None)
        prompts[f"task{number}"] = Prompt.of(facts, tensors)
    return prompts


def check(bundle: Path, prompts: dict[str, Prompt], images: list[Path]) -> float:
    """Raise AssertionError where a task differs from its prompt alone; return the largest difference of scores."""
    largest = 0.0
    with Classifier.load(bundle, prompts=prompts, device="cpu") as together:
        found = together.classify_tasks(images)
        for name, prompt in prompts.items():
            with Classifier.load(bundle, prompt=prompt, device="cpu") as alone:
                for each, wanted in zip(found, alone(images), strict=True):
                    assert each[name].labels == wanted.labels, name
                    assert each[name].label == wanted.label, name
                    assert np.array_equal(each[name].retrieved, wanted.retrieved), name
                    difference = np.abs(each[name].probabilities - wanted.probabilities).max()
                    largest = max(largest, float(difference))
                    ours, theirs = (one.encode_text(wanted.retrieved[None])[0] for one in (together.tasks[name], alone))
                    assert np.array_equal(ours, theirs), name
    assert largest < 1e-5, largest
    return largest


def measure(name: str, folder: Path, rounds: int) -> list[str]:
    """Rows of the table for one model."""
    images = list_images(IMAGES / "test")
    export_random(name, folder / "bundle", names(LABELS))
    prompts = make_prompts(Prompt.read(folder / "bundle" / PROMPT))
    difference = check(folder / "bundle", prompts, images[:CHECKED])
    frame = np.asarray(load_image(images[0]))
    rows = []
    for cached in (True, False):
        times = timings(folder / "bundle", prompts, frame, rounds, cached)
        one = times["together", 1]
        for count in COUNTS[1:]:
            shared, apart = times["together", count], times["apart", count]
            rows.append(
                f"| {name} | {'cached' if cached else 'uncached'} | {np.median(one):.1f} ms | {count} |"
                f" {np.median(shared / one):.2f} | {np.median(apart / one):.2f} | {difference:.1e} |"
            )
    return rows


def timings(
    bundle: Path, prompts: dict[str, Prompt], frame: NDArray[np.uint8], rounds: int, cached: bool
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Milliseconds of a frame with so many tasks, "together" on one vision pass and "apart"."""
    size = 256 << 20 if cached else 0
    loaded = Classifier.load(bundle, prompts=prompts, device="cpu", cache_bytes=size)
    alone = list(loaded.tasks.values())

    def together(count: int) -> Classifier:
        some = dict(list(prompts.items())[:count])
        return Classifier.load(bundle, prompts=some, device="cpu", cache_bytes=size)

    def apart(count: int) -> None:
        for classifier in alone[:count]:
            classifier(frame)

    sharing = {count: together(count) for count in COUNTS}
    sides: dict[tuple[str, int], Callable[[], float]] = {}
    for count in COUNTS:
        sides["together", count] = partial(timed, partial(sharing[count].classify_tasks, frame), 1)
        sides["apart", count] = partial(timed, partial(apart, count), 1)
    times = {side: np.array(values) for side, values in in_turn(sides, rounds).items()}
    for classifier in (loaded, *sharing.values()):
        classifier.close()
    return times


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    arguments = command_line(__doc__).parse_args()
    about = (
        f"Float32, {LABELS} labels a task (ImageNet's names), ONNX Runtime on {CORES} cores, {arguments.rounds} rounds"
        f" in turn. {WEIGHTS} Ratios are medians of those within a round. Labels, retrieved entries and bits of text"
        " features are those of each prompt alone; the last column is the largest difference of a score."
    )
    columns = "model, text features, one task, tasks, one vision pass to one task, a pass each, scores differ by"
    rows = partial(measure, rounds=arguments.rounds)
    keep_table(__file__, __doc__, about, columns.split(", "), arguments.models, rows)


if __name__ == "__main__":
    main()
