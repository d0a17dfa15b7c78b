"""The summary: counts are those of a plain loop, images those of the rows, and the page fetches nothing."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.datasets import DAMAGED, Dataset

from attri.runtime.dataset.plan import Request, make_plan
from attri.runtime.dataset.summary import BINS, SHOWN_IMAGES, Extremes, Shown, kind_of_error, summarize
from attri.runtime.dataset.summary_page import write_page

pa = pytest.importorskip("pyarrow")
LABELS = ["apple", None, "<script>alert(1)</script>"]


def rows(files: list[Path]) -> list[dict[str, Any]]:
    scores = np.random.default_rng(0).integers(0, 101, len(files)) / 100
    return [
        {"id": n, "label": None, "score": None, "error": f"photos/{n}.png is damaged: cut at {n}"}
        if n in DAMAGED
        else {"id": n, "label": LABELS[n % 3], "score": float(score), "error": None}
        for n, score in enumerate(scores)
    ]


def test_counts_and_extremes_are_those_of_a_plain_loop(dataset: Dataset) -> None:
    plan = make_plan(Request(dataset.parquet, part_rows=7))
    every = rows(dataset.files)
    tables = [(n, pa.Table.from_pylist(every[start : start + 7])) for n, start in enumerate(range(0, 24, 7))]
    halves = [(n, half) for n, table in tables for half in (table.slice(0, 3), table.slice(3))]
    summary = summarize({"": ""}, halves, plan.parts)
    good = [row for row in every if row["error"] is None]
    task = summary.tasks[""]
    assert task.labels == Counter(row["label"] for row in good)
    assert task.totals["apple"] == pytest.approx(sum(row["score"] for row in good if row["label"] == "apple"))
    expected = np.histogram([row["score"] for row in good], BINS, (0, 1))[0]
    assert sum(task.bins) == expected.sum()
    assert np.abs(np.cumsum(task.bins) - np.cumsum(expected)).max() <= 1  # a score on a border, as floats round it
    ranked = sorted(good, key=lambda row: (-row["score"], row["id"]))
    assert [row.name for row in task.most.ranked()] == [f"id: {row['id']}" for row in ranked[:SHOWN_IMAGES]]
    ranked = sorted(good, key=lambda row: (row["score"], row["id"]))
    assert [row.name for row in task.least.ranked()] == [f"id: {row['id']}" for row in ranked[:SHOWN_IMAGES]]
    assert summary.kinds == {"is damaged: cut at N": 2}
    assert summary.examples == {"is damaged: cut at N": "photos/3.png is damaged: cut at 3"}


def test_thumbnails_are_the_images_of_their_rows(dataset: Dataset) -> None:
    plan = make_plan(Request(dataset.tars))
    every = rows(dataset.files)
    tables = [(n, pa.Table.from_pylist(every[8 * n : 8 * n + 8])) for n in range(3)]
    summary = summarize({"": ""}, tables, plan.parts)
    assert len(summary.thumbnails) >= SHOWN_IMAGES
    for (part, row), url in summary.thumbnails.items():
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as small:
            assert max(small.size) <= 192
            shown = np.asarray(small.resize((16, 16)), np.float32)
        with Image.open(dataset.files[8 * part + row]).convert("RGBA") as image:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image)
            truth = np.asarray(white.convert("RGB").resize((16, 16)), np.float32)
        assert np.abs(shown - truth).mean() < 6  # levels of 255, of JPEG at 80; two drawings differ by 20 and more


def test_the_page_runs_and_fetches_nothing(dataset: Dataset, tmp_path: Path) -> None:
    plan = make_plan(Request(dataset.folder))
    summary = summarize({"defects & more": ""}, [(0, pa.Table.from_pylist(rows(dataset.files)))], plan.parts)
    write_page(tmp_path / "page.html", "photos\x1b[31m & <b>", "by a bundle", summary)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "photos\\x1b[31m &amp; &lt;b&gt;" in page
    assert "24 rows, 2 errors (8.3%)" in page
    assert "<h2>defects &amp; more</h2>" in page
    assert "none of the labels" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert all(url.startswith("data:image/jpeg;base64,") for url in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert page.count("<img") == 2 * SHOWN_IMAGES
    assert "url(" not in page


def test_a_page_about_nothing(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "x", "y", summarize({"": ""}, [], []))
    assert "0 rows, 0 errors" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_extremes_keep_the_first_of_equal_rows() -> None:
    extremes = Extremes(2)
    for place in ((1, 0), (0, 5), (0, 4), (2, 0)):
        extremes.add(0.5, Shown(0.5, place, None, ""))
    assert [row.place for row in extremes.ranked()] == [(0, 4), (0, 5)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("there is no image in this row", "there is no image in this row"),
        ("a b/3.png does not exist", "does not exist"),
        ("the image of 513 bytes is damaged: cut (12 left)", "is damaged: cut (N left)"),
        (
            "https://h/1.png?token=*** cannot be read: HTTP Error 404: Not Found",
            "cannot be read: HTTP Error 404: Not Found",
        ),
        ("s3://b/1.png takes longer than 120 seconds", "takes longer than N seconds"),
    ],
)
def test_kinds_of_errors_have_no_names(error: str, kind: str) -> None:
    assert kind_of_error(error) == kind
