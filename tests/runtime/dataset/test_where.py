"""Filters: what Python says of each row is the reference."""

from __future__ import annotations

import pytest

from attri.runtime.dataset.where import Where
from attri.runtime.errors import UsageError

pa = pytest.importorskip("pyarrow")
ROWS = [
    {"width": width, "split": split, "good": good}
    for width in (100, 256, 300)
    for split in ("train", "val", "te'st")
    for good in (True, False)
]


@pytest.mark.parametrize(
    "text",
    [
        "width >= 256",
        "width >= 256 and split == 'train'",
        "split in ['train', \"te'st\"] or width < 200",
        "split not in ['val']",
        "100 < width <= 256",
        "not good and width != 256",
        "good",
        "split is not None",
        "(width == 100 or width == 300) and not (split == 'val')",
    ],
)
def test_rows_are_those_of_which_python_says_so(text: str) -> None:
    expected = [number for number, row in enumerate(ROWS) if eval(text, {}, dict(row))]
    assert Where(text).rows_of(pa.Table.from_pylist(ROWS)) == expected
    assert 0 < len(expected) <= len(ROWS)


def test_a_missing_value_is_neither_equal_nor_different() -> None:
    table = pa.table({"width": [1, None, 3]})
    assert Where("width == 1").rows_of(table) == [0]
    assert Where("width != 1").rows_of(table) == [2]
    assert Where("not width == 1").rows_of(table) == [2]
    assert Where("width in [1]").rows_of(table) == [0]
    assert Where("width not in [1]").rows_of(table) == [2]
    assert Where("width is None").rows_of(table) == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width = 3", "cannot be read"),
        ("", "cannot be read"),
        ("__import__('os').system('true')", "no comparison"),
        ("width.real > 3", "no column or value"),
        ("width > open('x')", "no column or value"),
        ("1 < 2", "names no column"),
        ("width is 3", "only None"),
        ("width + 1", "no comparison"),
    ],
)
def test_what_is_no_filter_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Where(text)


def test_columns_of_another_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="does not fit the columns"):
        Where("split > 3").rows_of(pa.table({"split": ["a"]}))
