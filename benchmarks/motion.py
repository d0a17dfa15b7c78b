"""How many passes --motion saves on still and moving videos, and how often the label is another one.

    python -m benchmarks.motion BUNDLE [--clips clips] [--percent 1 2 3 5 10]

The clips are those of benchmarks.cache. Every frame is classified, with the bundle's own labels; then the gate says
which frames it would have had classified, and each other frame gets the label of the last of those. The maximum age is
the default. The table is kept in benchmarks/motion.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av

from attri.runtime import Classifier
from attri.runtime.decide.motion import MAX_AGE, MotionGate
from benchmarks.cache import CLIPS, download
from benchmarks.common import keep


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clips", type=Path, default=Path("clips"))
    parser.add_argument("--percent", type=float, nargs="+", default=[1, 2, 3, 5, 10])
    arguments = parser.parse_args()
    download(arguments.clips)
    with Classifier.load(arguments.bundle, device="cpu") as classifier:
        rows = [
            f"| {name} | {seen} | " + " | ".join(measure(classifier, arguments.clips / file, arguments.percent)) + " |"
            for name, (file, seen) in CLIPS.items()
        ]
        about = f"{classifier.bundle.manifest.model['name']}, {len(classifier.labels)} labels"
    head = " | ".join(f"--motion {percent:g}" for percent in arguments.percent)
    lines = [
        f"{about}, --motion-max-age {MAX_AGE:g}. Each cell: passes saved / labels that differ, percent of the frames.",
        "",
        f"| clip | shot | frames | {head} |",
        "|---|---|---|" + "---|" * len(arguments.percent),
        *rows,
    ]
    keep(Path(__file__), __doc__, "\n".join(lines))


def measure(classifier: Classifier, file: Path, percents: list[float]) -> list[str]:
    """The cells of one clip: frames, and for each threshold passes saved and labels that differ."""
    gates = [MotionGate(percent) for percent in percents]
    due: list[list[bool]] = []
    labels: list[str] = []
    with av.open(str(file)) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            labels.append(classifier(image).top(1)[0][0])
            due.append([gate.is_due(image, float(frame.time or 0), None) for gate in gates])
    cells = [str(len(labels))]
    for number in range(len(gates)):
        saved = sum(not each[number] for each in due)
        shown, differ = "", 0
        for label, each in zip(labels, due, strict=True):
            shown = label if each[number] else shown
            differ += shown != label
        cells.append(f"{saved / len(labels):.1%} / {differ / len(labels):.1%}")
    return cells


if __name__ == "__main__":
    main()
