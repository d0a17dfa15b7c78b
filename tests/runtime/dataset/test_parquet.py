"""Parquet: rows of a file by their numbers, in tables that are small whatever the file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attri.runtime.dataset.files import File, UnreadableError
from attri.runtime.dataset.parquet import PLACE, plan_ranges
from attri.runtime.errors import ImageError, UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> File:
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return File(str(path), path.stat().st_size)


@pytest.mark.parametrize("group", [1, 7, 100, 1000])
def test_every_row_is_in_one_stretch_wherever_groups_end(tmp_path: Path, group: int) -> None:
    rows = [{"id": number, "image": b"%d" % number} for number in range(250)]
    files = [write(tmp_path / f"{part}.parquet", rows[part::2], row_group_size=group) for part in range(2)]
    ranges, _ = plan_ranges(files, "image", 40)
    assert [each.rows for each in ranges] == [40, 40, 40, 5] * 2
    found = [some for each in ranges for some in each.read(["id", *PLACE])]
    table = pa.concat_tables([some.table for some in found])
    assert table["id"].to_pylist() == [*range(0, 250, 2), *range(1, 250, 2)]
    assert table["_row"].to_pylist() == [*range(125), *range(125)]
    assert set(table["_file"].to_pylist()) == {file.path for file in files}
    assert [cell for some in found for cell in some.images] == [b"%d" % number for number in table["id"].to_pylist()]


def test_tables_are_small_where_images_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attri.runtime.dataset.parquet.TABLE_BYTES", 4000)
    file = write(tmp_path / "a.parquet", [{"image": bytes([number]) * 1000} for number in range(30)])
    (stretch,), _ = plan_ranges([file], "image", 100)
    assert max(some.table.num_rows for some in stretch.read(["_row"])) <= 4


def test_types_of_files_are_brought_together(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{n}.parquet", [{"id": value, "image": "x.png"}]) for n, value in enumerate([1, 2.5, None])
    ]
    ranges, schema = plan_ranges(files, "image", 10)
    assert schema.field("id").type == pa.float64()
    assert [some.table["id"].to_pylist() for each in ranges for some in each.read(["id"])] == [[1.0], [2.5], [None]]


def test_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a.parquet", [{"id": 1, "image": b"x"}])
    for rows, said in (
        ([{"id": 1, "photo": b"x"}], "has no column 'image', but id, photo: give --image-column"),
        ([{"image": b"x"}], "differ in columns: id"),
        ([{"id": "one", "image": b"x"}], "differ in their columns"),
        ([{"id": 1, "image": 3}], "differ in their columns"),
    ):
        with pytest.raises(UsageError, match=said):
            plan_ranges([good, write(tmp_path / "b.parquet", rows)], "image", 10)
    with pytest.raises(UsageError, match="the column 'id' holds int64: give one of bytes"):
        plan_ranges([good], "id", 10)


def test_damage_is_a_row_and_a_missing_file_is_tried_again(tmp_path: Path) -> None:
    rows = [{"id": number, "image": bytes(range(256)) * 40} for number in range(20)]
    file = write(tmp_path / "a.parquet", rows, row_group_size=10, compression="gzip", use_dictionary=False)
    ranges, _ = plan_ranges([file], "image", 20)
    data = bytearray(Path(file.path).read_bytes())
    meta = parquet.ParquetFile(file.path).metadata.row_group(1).column(1)
    middle = meta.data_page_offset + meta.total_compressed_size // 2
    data[middle : middle + 50] = bytes(50)
    Path(file.path).write_bytes(data)
    found = list(ranges[0].read(["id"]))
    assert found[-1].damaged
    assert found[-1].table.to_pylist() == [{"id": None}]
    assert isinstance(found[-1].images[0], ImageError)
    assert "rows 0 to 19 cannot all be read" in str(found[-1].images[0])
    assert [value for some in found[:-1] for value in some.table["id"].to_pylist()] == list(range(10))
    Path(file.path).unlink()
    with pytest.raises(UnreadableError, match="No such file"):
        list(ranges[0].read(["id"]))
    Path(file.path).write_bytes(b"no parquet at all")
    with pytest.raises(UnreadableError, match=r"a.parquet cannot be read"):
        plan_ranges([file], "image", 20)
