"""The learning curve over shots: what a quarter, a half and all of the training images give on the same test images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attri.train.report.intervals import paired, wilson

__all__ = ["fewer_shots", "learning_curve"]


def fewer_shots(images: int) -> list[int]:
    """Return the shots to train again with, where a class has at most so many images: a quarter and a half."""
    return sorted({shots for part in (4, 2) if 0 < (shots := -(-images // part)) < images})


def learning_curve(part: str, right: dict[int, Tensor], images: dict[int, int]) -> dict[str, Any]:
    """Summarize trainings with ever more images per class, scored on the same images.

    Args:
        part: of the data that was scored, "test" or "val".
        right: by shots, ascending, whether each image was classified right, bool [I].
        images: by shots, the number of training images.

    Returns:
        "points", a row for each of `right` with the accuracy and its 95% interval; "gain" of the last point over the
        one before, in shares, with the 95% interval of the paired difference.
    """
    points = [
        {
            "shots": shots,
            "images": images[shots],
            "accuracy": float(each.double().mean()),
            "interval": [round(edge, 4) for edge in wilson(int(each.sum()), len(each))],
        }
        for shots, each in right.items()
    ]
    before, last = list(right.values())[-2:]
    gained, lost = int((last & ~before).sum()), int((before & ~last).sum())
    return {
        "part": part,
        "points": points,
        "gain": (gained - lost) / len(last),
        "gain_interval": [round(edge, 4) for edge in paired(gained, lost, len(last))],
    }


def advice(curve: dict[str, Any]) -> str:
    """Say in a sentence whether more images would help, as far as the scored images can tell."""
    low, high = (100 * edge for edge in curve["gain_interval"])
    half, full = (point["shots"] for point in curve["points"][-2:])
    gain = f"{100 * curve['gain']:+.1f} points, with 95% certainty {low:+.1f} to {high:+.1f}"
    found = f"From {half} to {full} images per class: {gain}."
    if low > 0:
        return f"{found} More images like these will probably help."
    if high < 0:
        return f"{found} More images made it worse: look for wrong labels among them."
    return f"{found} The {curve['part']} images cannot tell whether more training images would help."
