"""A prompt against the one that it started at: which to use, or of which classes to collect more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attri.runtime._util.wording import plural
from attri.train.report.intervals import paired

__all__ = ["compare_prompts", "comparison_rows", "right", "says", "verdict_of"]

FALL = 0.01  # by which accuracy on classes that the first prompt knew may fall (our choice)
DECIDE = 6  # images on which they differ; a coin that falls six times alike is the first below 5%
ENOUGH = 10  # test images of a class, with fewer of which it is named first (our choice)
NAMED = 3  # classes of which more should be collected

Row = dict[str, Any]


def compare_prompts(before: Tensor, after: Tensor, targets: Tensor, classes: list[str], known: int) -> Row:
    """Compare two prompts on the same images, which neither was trained on.

    Args:
        before: whether the first prompt was right, bool [I], asked for the same classes.
        after: the same of the second.
        targets: classes of the images [I].
        classes: names.
        known: the number of classes that the first prompt knew, which come first.

    Returns:
        "all", "known" and "new" (where there are such images) and "classes", a row for each class: see `_row`;
        "verdict" and "collect": see `verdict_of`.
    """
    old = targets < known
    parts = {"all": old | True, "known": old, "new": ~old}
    found: Row = {name: _row(before[rows], after[rows]) for name, rows in parts.items() if bool(rows.any())}
    of_class = [targets == number for number in range(len(classes))]
    found["classes"] = [
        {"name": name, "new": number >= known, **_row(before[rows], after[rows])}
        for number, (name, rows) in enumerate(zip(classes, of_class, strict=True))
    ]
    found["verdict"], found["collect"] = verdict_of(found)
    return found


def _row(before: Tensor, after: Tensor) -> Row:
    """The number of images, how many each prompt has right, gained and lost, and the 95% interval of the difference."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    images = len(before)
    row: Row = {
        "images": images,
        "before": int(before.sum()),
        "after": int(after.sum()),
        "gained": gained,
        "lost": lost,
    }
    if images:
        row |= {"difference": (gained - lost) / images, "interval": [round(e, 4) for e in paired(gained, lost, images)]}
    return row


def verdict_of(comparison: Row) -> tuple[str, list[str]]:
    """Decide what to do.

    keep     the new prompt is worse with 95% certainty, on all images or, by more than a point, on the known classes
    adopt    it is better with 95% certainty, and on the known classes by no more than a point worse
    collect  neither: the images cannot tell

    With fewer than six images on which the two differ nothing is certain.

    Args:
        comparison: "all", "known" where there are such images, and "classes".

    Returns:
        The verdict, and up to three classes of which more should be collected: those with the fewest test images,
        where they are fewer than ten, else those that lost most.
    """
    every, known = comparison.get("all"), comparison.get("known")
    if every is None:
        return "collect", _wanted(comparison["classes"])
    if _is_certain(every) and every["interval"][1] < 0:
        return "keep", []
    if known and _is_certain(known) and known["interval"][1] < -FALL:
        return "keep", []
    if _is_certain(every) and every["interval"][0] > 0 and (not known or known["difference"] >= -FALL):
        return "adopt", []
    return "collect", _wanted(comparison["classes"])


def _is_certain(row: Row) -> bool:
    return bool(row["gained"] + row["lost"] >= DECIDE)


def _wanted(classes: list[Row]) -> list[str]:
    few = sorted((row for row in classes if row["images"] < ENOUGH), key=lambda row: row["images"])
    worse = sorted((row for row in classes if row["lost"] > row["gained"]), key=lambda row: row["gained"] - row["lost"])
    return [row["name"] for row in (few or worse or sorted(classes, key=lambda row: row["images"]))[:NAMED]]


def says(comparison: Row) -> str:
    """Say in a line what to do, and why."""
    named = ", ".join(comparison["collect"])
    words = {
        "adopt": "adopt: the new prompt is better",
        "keep": "keep the prompt in use: the new one is worse",
        "collect": f"collect more, first of {named}: these images cannot tell which prompt is better",
    }[comparison["verdict"]]
    every, known = comparison.get("all"), comparison.get("known")
    if every is None:
        return f"collect more, first of {named}: there are no images to compare the prompts on"
    low, high = (100 * edge for edge in every["interval"])
    rates = " to ".join(f"{row / every['images']:.1%}" for row in (every["before"], every["after"]))
    line = (
        f"{words} ({rates} on {plural(every['images'], 'image')}, with 95% certainty {low:+.1f} to {high:+.1f} points"
    )
    if known:
        line += f"; known classes {100 * known['difference']:+.1f}"
    return f"{line})"


def comparison_rows(comparison: Row) -> list[Row]:
    """Rows of a table: all images, known and new classes, then each class, those that lost most first."""
    parts = {"all": "all images", "known": "known classes", "new": "new classes"}
    whole = [{"name": name, **comparison[part]} for part, name in parts.items() if part in comparison]
    return whole + sorted(comparison["classes"], key=lambda row: row["gained"] - row["lost"])


def right(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether each image's highest logit is its class, bool [I] on the CPU. logits [I, C], targets [I]."""
    return torch.eq(logits.argmax(-1).cpu(), targets)
