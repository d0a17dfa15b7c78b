"""Parts: every row is in one of them, the same ones each time; filter, limit and sample choose rows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Dataset

from attri.runtime.dataset.plan import Plan, Request, make_plan
from attri.runtime.errors import UsageError


def ids(plan: Plan, column: str = "id") -> list[Any]:
    return [value for part in plan.parts for rows in part.read() for value in rows.table[column].to_pylist()]


@pytest.mark.parametrize("rows", [1, 5, 7, 2048])
def test_parts_hold_every_row_once_in_order(dataset: Dataset, rows: int) -> None:
    plan = make_plan(Request(dataset.parquet, part_rows=rows))
    assert ids(plan) == list(range(24))
    assert [part.number for part in plan.parts] == list(range(len(plan.parts)))
    assert max(sum(len(some.images) for some in part.read()) for part in plan.parts) <= rows
    assert plan == make_plan(Request(dataset.parquet, part_rows=rows))
    folder = make_plan(Request(dataset.folder, part_rows=rows))
    assert [Path(path).name for path in ids(folder, "path")] == [f"{number:04d}.png" for number in range(24)]


def test_a_tar_is_a_part(dataset: Dataset) -> None:
    plan = make_plan(Request(dataset.tars, part_rows=5))
    assert len(plan.parts) == 3
    assert ids(plan, "key") == [f"{number:04d}" for number in range(24)]


def test_images_are_those_of_the_rows(dataset: Dataset) -> None:
    plan = make_plan(Request(dataset.tars, where="cls == 'val'", limit=3))
    found = [rows for part in plan.parts for rows in part.read()]
    assert [key for rows in found for key in rows.table["key"].to_pylist()] == ["0000", "0003", "0006"]
    images = [image for rows in found for image in rows.images]
    assert images[::2] == [dataset.files[0].read_bytes(), dataset.files[6].read_bytes()]


@pytest.mark.parametrize("word", ["parquet", "tars", "folder"])
@pytest.mark.parametrize("limit", [1, 8, 13, 24, 100])
def test_a_limit_is_the_first_rows(dataset: Dataset, word: str, limit: int) -> None:
    column = {"parquet": "id", "tars": "key", "folder": "path"}[word]
    request = Request(getattr(dataset, word), limit=limit, part_rows=5)
    everything = ids(make_plan(Request(getattr(dataset, word))), column)
    assert ids(make_plan(request), column) == everything[:limit]


@pytest.mark.parametrize("word", ["parquet", "tars", "folder"])
def test_a_sample_is_the_same_each_time_and_another_with_another_seed(dataset: Dataset, word: str) -> None:
    column = {"parquet": "id", "tars": "key", "folder": "path"}[word]
    everything = ids(make_plan(Request(getattr(dataset, word))), column)
    for seed in range(3):
        found = ids(make_plan(Request(getattr(dataset, word), sample=9, seed=seed, part_rows=4)), column)
        assert found == [everything[row] for row in sorted(random.Random(seed).sample(range(24), 9))]
    assert ids(make_plan(Request(getattr(dataset, word), sample=100)), column) == everything


@pytest.mark.parametrize("word", ["parquet", "tars"])
def test_a_sample_and_a_limit_are_of_rows_that_pass_the_filter(dataset: Dataset, word: str) -> None:
    column, where = {"parquet": ("id", "split == 'val'"), "tars": ("key", "cls == 'val'")}[word]
    passing = ids(make_plan(Request(getattr(dataset, word), where=where)), column)
    assert len(passing) == 8
    assert ids(make_plan(Request(getattr(dataset, word), where=where, limit=5)), column) == passing[:5]
    sample = ids(make_plan(Request(getattr(dataset, word), where=where, sample=5)), column)
    assert sample == [passing[row] for row in sorted(random.Random(0).sample(range(8), 5))]


def test_pieces_of_a_sample_are_joined_to_parts(dataset: Dataset) -> None:
    assert len(make_plan(Request(dataset.tars, sample=9, part_rows=100)).parts) == 1
    assert len(make_plan(Request(dataset.parquet, limit=20, part_rows=100)).parts) == 1


def test_columns_are_those_that_are_asked_for(dataset: Dataset) -> None:
    assert make_plan(Request(dataset.parquet)).schema.names == ["id", "split"]
    assert make_plan(Request(dataset.parquet, columns=("split", "_row"))).schema.names == ["split", "_row"]
    assert make_plan(Request(dataset.tars)).schema.names == ["shard", "key", "name"]
    plan = make_plan(Request(dataset.tars, columns=("json",)))
    assert ids(plan, "json")[5] == '{"id": 5}'
    for request in (
        Request(dataset.parquet, columns=("ids",)),
        Request(dataset.folder, where="split == 'val'"),
        Request(dataset.folder, image="path"),
        Request(dataset.parquet, where="split > 3"),
    ):
        with pytest.raises(UsageError):
            make_plan(request)
