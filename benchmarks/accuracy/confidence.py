"""When a temperature makes scores truer: calibration error by the number of images that it was fitted on.

    python -m benchmarks.accuracy.confidence FOLDER [--page FILE]

FOLDER holds the cells of base-to-novel that `python -m benchmarks.accuracy` made, of one backbone. Some base test
images play those that training left out: the temperature is fitted on them and kept by the rule of attri-export. The
calibration error is that of all other base images, and of the novel classes, which nothing was fitted on. Means over
seeds and DRAWS draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attri.calibration.confidence import (
    auroc,
    calibration_error,
    fit_temperature,
    held_out_error,
    held_out_gain,
    probabilities,
)
from benchmarks.accuracy import cells
from benchmarks.accuracy.tables import markdown

COUNTS = (25, 50, 100, 200)  # images to fit on
DRAWS = 20
METHODS = ("zero-shot", "static", "attriprompt")
ABOUT = f"""Calibration error in percent, {DRAWS} draws a seed. Base images that were drawn play those that training
left out; the temperature is fitted on them and kept by the rule of `attri-export`: their cross-validated calibration
error is no worse, and their likelihood better by more than one standard error. Errors are those of the other base
images, and of novel classes."""
Array = NDArray[np.float64]


def error(logits: Array, targets: NDArray[np.int64], temperature: float) -> float:
    """Expected calibration error in percent."""
    return 100 * calibration_error(probabilities(logits, temperature).max(1), logits.argmax(1) == targets)


def trial(part: cells.Part, novel: cells.Part, count: int, draw: np.random.Generator) -> list[float]:
    """One draw: kept or not; error of the other base images and of novel ones, without and with what was kept."""
    logits, order = part.logits.astype(np.float64), draw.permutation(len(part.targets))
    chosen, rest = order[:count], order[count:]
    temperature = fit_temperature(logits[chosen], part.targets[chosen])
    plain = calibration_error(probabilities(logits[chosen]).max(1), logits[chosen].argmax(1) == part.targets[chosen])
    gain, unsure = held_out_gain(logits[chosen], part.targets[chosen])
    better = held_out_error(logits[chosen], part.targets[chosen]) <= plain and gain > unsure
    kept = temperature is not None and better
    used = temperature if kept and temperature is not None else 1.0
    others, unseen = (logits[rest], part.targets[rest]), (novel.logits.astype(np.float64), novel.targets)
    return [float(kept), *(error(*side, t) for side in (others, unseen) for t in (1.0, used))]


def rows(folder: Path) -> list[list[str]]:
    """A row for each dataset, method and number of images."""
    body = []
    for dataset in sorted(path for path in (folder / "base-to-novel").iterdir() if path.is_dir()):
        for method in METHODS:
            found = [cells.load(file) for file in sorted(dataset.glob(f"{method}-16shots-seed*.npz"))]
            for count in COUNTS:
                draw = np.random.default_rng(0)
                trials = [trial(c.parts["base"], c.parts["novel"], count, draw) for c in found for _ in range(DRAWS)]
                kept, *errors = np.mean(trials, 0)
                harm = np.mean([float(one[2] > one[1]) for one in trials if one[0]] or [0.0])
                body.append(
                    [
                        dataset.name,
                        method,
                        str(count),
                        f"{kept:.0%}",
                        *(f"{value:.1f}" for value in errors),
                        f"{harm:.0%}",
                    ]
                )
    return body


def surest(folder: Path) -> list[list[str]]:
    """How well the score tells right answers from wrong ones: AUROC by dataset and method, the mean over seeds."""
    body = []
    for dataset in sorted(path for path in (folder / "base-to-novel").iterdir() if path.is_dir()):
        for method in METHODS:
            line = [dataset.name, method]
            for name in ("base", "novel"):
                values = []
                for file in dataset.glob(f"{method}-16shots-seed*.npz"):
                    part = cells.load(file).parts[name]
                    scores = probabilities(part.logits.astype(np.float64)).max(1)
                    values.append(100 * auroc(scores[part.correct], scores[~part.correct]))
                line.append(f"{np.mean(values):.1f}")
            body.append(line)
    return body


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    header = [
        "dataset",
        "method",
        "images fitted on",
        "kept",
        "base before",
        "base after",
        "novel before",
        "novel after",
    ]
    temperatures = markdown(
        [*header, "of those kept, worse on base"], [row for one in given.folder for row in rows(one)]
    )
    sure = markdown(["dataset", "method", "base", "novel"], [row for one in given.folder for row in surest(one)])
    assert __doc__
    title = __doc__.partition("\n")[0]
    text = f"# {title}\n\n{ABOUT}\n\n{temperatures}\n"
    text += f"## How well the score tells right answers from wrong ones: AUROC in percent\n\n{sure}"
    if given.page:
        given.page.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
