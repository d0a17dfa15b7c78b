"""How well scores tell images of known classes from those of unknown ones, and whether thresholds per class help.

    python -m benchmarks.accuracy.rejection FOLDER ... [--page FILE]

FOLDER holds the cells of base-to-novel that `python -m benchmarks.accuracy` made, of one backbone. Known are the base
test images; unknown are those of the novel classes, scored among the base classes. A threshold is fitted on one half of
the known images, to reject a tenth of them, and tried on the other half: one for all labels, or one for each label that
enough images were given, and the common one for the rest. Means over seeds and DRAWS draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attri.calibration.confidence import auroc, probabilities, threshold_rejecting
from benchmarks.accuracy import cells
from benchmarks.accuracy.tables import markdown

DRAWS = 20
METHODS = ("zero-shot", "static", "attriprompt")
REJECTED = 0.1  # share of known images that may be rejected
LEAST = 10  # images of a label for a threshold of its own, as attri-export has it for independent labels
ABOUT = f"""AUROC in percent: how often an image of a known class has the higher best score. Thresholds reject
{REJECTED:.0%} of one half of the known images; what they reject of the other half, and accept of the unknown ones, in
percent: with one threshold for all, and with one for each label that {LEAST} images of the first half were given."""


class Scores:
    """The best label of each image, and its score.

    Args:
        part: of a cell.
    """

    def __init__(self, part: cells.Part) -> None:
        self.best = part.logits.argmax(1)
        self.scores: NDArray[np.float64] = probabilities(part.logits.astype(np.float64)).max(1)


def thresholds(labels: NDArray[np.int64], scores: NDArray[np.float64], classes: int, own: bool) -> NDArray[np.float64]:
    """The threshold of each label, fitted on known images with these best labels [I] and scores [I]. -> [C]."""
    found = np.full(classes, threshold_rejecting(scores, REJECTED))
    for label in range(classes) if own else ():
        if (labels == label).sum() >= LEAST:
            found[label] = threshold_rejecting(scores[labels == label], REJECTED)
    return found


def trial(known: Scores, unknown: Scores, classes: int, draw: np.random.Generator) -> list[float]:
    """Percent of known images rejected and of unknown ones accepted: with one threshold, and with one per label."""
    order = draw.permutation(len(known.best))
    first, other = order[: len(order) // 2], order[len(order) // 2 :]
    result = []
    for own in (False, True):
        least = thresholds(known.best[first], known.scores[first], classes, own)
        result.append(100 * float((known.scores[other] < least[known.best[other]]).mean()))
        result.append(100 * float((unknown.scores >= least[unknown.best]).mean()))
    return result


def rows(folder: Path) -> list[list[str]]:
    """A row for each dataset and method."""
    body = []
    for dataset in sorted(path for path in (folder / "base-to-novel").iterdir() if path.is_dir()):
        for method in METHODS:
            found = [cells.load(file).parts for file in sorted(dataset.glob(f"{method}-16shots-seed*.npz"))]
            found = [parts for parts in found if "unknown" in parts]
            if not found:
                continue
            draw = np.random.default_rng(0)
            areas, trials = [], []
            for parts in found:
                known, unknown = Scores(parts["base"]), Scores(parts["unknown"])
                areas.append(100 * auroc(known.scores, unknown.scores))
                trials += [trial(known, unknown, parts["base"].logits.shape[1], draw) for _ in range(DRAWS)]
            images = f"{len(found[0]['base'].targets)} + {len(found[0]['unknown'].targets)}"
            values = [np.mean(areas), *np.mean(trials, 0)]
            body.append([dataset.name, images, method, *(f"{value:.1f}" for value in values)])
    return body


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    header = ["dataset", "known + unknown images", "method", "AUROC"]
    header += [f"{which}: {what}" for which in ("one threshold", "per label") for what in ("rejected", "accepted")]
    assert __doc__
    table = markdown(header, [row for folder in given.folder for row in rows(folder)])
    text = f"# {__doc__.partition(chr(10))[0]}\n\n{ABOUT}\n\n{table}"
    if given.page:
        given.page.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
