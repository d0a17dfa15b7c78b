"""Write report.html of a run: one file without scripts and links, which opens anywhere, offline."""

from __future__ import annotations

import base64
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime._util.wording import plural
from attri.train.report.comparison import comparison_rows, says
from attri.train.report.learning_curve import advice
from attri.train.training.run_folder import write_file

PARTS = ("train", "val", "test")  # of the data, as `results.json` names them
SHOWN = 12  # classes at either end, and confused pairs
PIXELS_PER_CSS_PIXEL = 1.5  # `plots.save` draws 150 per inch, a browser 96; a little larger than life reads better


def write_report(folder: Path, results: dict[str, Any], history: list[dict[str, Any]], figures: list[Path]) -> None:
    """Write `folder/report.html`.

    Args:
        folder: the run folder.
        results: what `results.json` holds. Left out where missing: "val", "test", "confusion" in "test" (counts
            [C, C], row = truth), "pool_usage" (shares [L, N]; empty without a pool), "pool_entries",
            "comparison" and "learning_curve".
        history: the records of `metrics.jsonl`, one or more.
        figures: PNG files. Those named curves, confusion, usage, entries, clusters and those of `draw_review` have
            their places, others come last.

    Raises:
        FailedError: it cannot be written.
    """
    run, test = results["run"], results.get("test", {})
    confusion = np.array(test.get("confusion", np.zeros((0, 0))))
    classes = class_accuracy(confusion, run["classes"])
    html = render(
        Path(__file__).with_name("report.html"),
        title=title(results),
        summary=summary(results),
        parts={part: results[part] for part in ("test", "val") if part in results},
        classes=classes,
        untested=len(confusion) - len(classes),
        shown=SHOWN,
        confused=most_confused(confusion, run["classes"]),
        pool=pool_rows(np.array(results.get("pool_usage", []))),
        entries=entry_rows(results),
        comparison=comparison_rows(results["comparison"]) if "comparison" in results else [],
        says=says(results["comparison"]) if "comparison" in results else "",
        advice=advice(results["learning_curve"]) if "learning_curve" in results else "",
        history=history,
        figures={path.stem: embedded(path) for path in figures},
        skipped={part: results[part]["skipped"] for part in PARTS if results.get(part, {}).get("skipped")},
        run=run,
        results=results,
        folder=str(folder),
        time=str(timedelta(seconds=round(results["seconds"]))),
    )
    # File names that are no valid text (any bytes may be one) are shown by their escapes.
    write_file(folder / "report.html", html.encode(errors="backslashreplace"))


def render(template: Path, **values: Any) -> str:
    """A page from a template, which finds what the reports share beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template.name).render(**values)


def title(results: dict[str, Any]) -> str:
    """Return the title: backbone and data."""
    run = results["run"]
    return f"{run['backbone']['model']} on {Path(run['data']).name}"


def summary(results: dict[str, Any]) -> str:
    """Return a sentence on what was trained on what."""
    run = results["run"]
    train, backbone = run["train"], run["backbone"]
    shots = train["shots"]
    drawn = "all that there are" if shots is None else f"up to {shots} per class"
    if start := run.get("start"):
        return (
            f"Prompts for {backbone['model']} ({backbone['pretrained']}), trained on from {start['prompt']}, which "
            f"knows {plural(start['classes'], 'class')}, with {plural(results['train']['images'], 'image')} to "
            f"{len(run['classes'])} classes, for {train['epochs']} epochs, seed {train['seed']}."
        )
    return (
        f"Prompts for {backbone['model']} ({backbone['pretrained']}), trained on "
        f"{results['train']['images']} images of {len(run['classes'])} classes ({drawn}) "
        f"for {train['epochs']} epochs, seed {train['seed']}."
    )


def class_accuracy(confusion: NDArray[Any], classes: list[str]) -> list[dict[str, Any]]:
    """One row for each class that has images, worst first, and among equals the one with more images."""
    rows = [
        {"name": classes[c], "right": int(row[c]), "images": int(row.sum()), "accuracy": float(row[c] / row.sum())}
        for c, row in enumerate(confusion)
        if row.sum()
    ]
    return sorted(rows, key=lambda row: (row["accuracy"], -row["images"]))


def most_confused(confusion: NDArray[Any], classes: list[str]) -> list[dict[str, Any]]:
    """Pairs of classes by the number of images that went wrong between them, most first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        {
            "truth": classes[row],
            "predicted": classes[column],
            "count": int(wrong[row, column]),
            "images": int(confusion[row].sum()),
        }
        for row, column in pairs
        if wrong[row, column]
    ]


def pool_rows(usage: NDArray[Any]) -> list[dict[str, Any]]:
    """Return a row for each block of usage [L, N]; none without a pool."""
    return [
        {"alive": int((block > 0).sum()), "size": len(block), "busiest": float(block.max())}
        for block in usage
        if len(block)
    ]


def entry_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each pool entry in use: text block, number, share of retrievals, what it attracts, words."""
    words = results.get("pool_words", [])  # none of a pool with a single entry
    return [
        {
            "block": block + 1,
            "entry": entry,
            "share": share,
            "attracts": ", ".join(map(_with_lift, classes)) or "all alike",
            "words": ", ".join(words[block][entry]) if block < len(words) else "",
        }
        for block, (shares, attracted) in enumerate(
            zip(results.get("pool_usage", []), results.get("pool_entries", []), strict=False)
        )
        for entry, (share, classes) in enumerate(zip(shares, attracted, strict=True))
        if share
    ]


def _with_lift(row: dict[str, Any]) -> str:
    return f"{row['name']} ({row['lift']:.1f})" if "lift" in row else str(row["name"])


def embedded(path: Path) -> dict[str, Any]:
    """Return a PNG as base64 with its size in CSS pixels."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        width, height = (round(side / PIXELS_PER_CSS_PIXEL) for side in image.size)
    return {"data": base64.b64encode(data).decode(), "width": width, "height": height}
