"""Finished parts: whole or not there, of one command and one process."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attri.runtime.dataset.output.output import Counts, Output
from attri.runtime.dataset.output.text import check_text
from attri.runtime.errors import FailedError, SinkError, UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
SCHEMA = pa.schema(
    [("id", pa.int64()), ("score", pa.float32()), ("top", pa.list_(pa.string())), ("error", pa.string())]
)
RUN: dict[str, Any] = {"labels": ["a"], "columns": ("id",)}


def table(*ids: int) -> Any:
    rows = [{"id": each, "score": each / 3, "top": ["a", "é"], "error": "bad" if each == 7 else None} for each in ids]
    return pa.Table.from_pylist(rows, SCHEMA)


def folder_of(out: Output) -> Path:
    assert isinstance(out.folder, Path)
    return out.folder


def test_parts_come_back_in_order_whenever_they_were_written(tmp_path: Path) -> None:
    out = Output(tmp_path / "out", RUN, SCHEMA)
    with out.locked():
        assert out.done() == {}
        assert out.write(2, [table(6, 7)]) == Counts(2, 1)
        assert out.write(0, [table(0), table(1, 2)]) == Counts(3, 0)
        assert out.write(1, []) == Counts(0, 0)
        assert out.done() == {0: Counts(3, 0), 1: Counts(0, 0), 2: Counts(2, 1)}
        out.finish()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"part-{n:06d}.parquet" for n in range(3)]
    assert parquet.read_table(tmp_path / "out")["id"].to_pylist() == [0, 1, 2, 6, 7]
    assert [number for number, _ in out.tables()] == [0, 2]


def test_a_part_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def tables() -> Iterator[Any]:
        yield table(1)
        raise FailedError("the network is gone")

    out = Output(tmp_path / "out", RUN, SCHEMA)
    with out.locked():
        with pytest.raises(FailedError, match="gone"):
            out.write(0, tables())
        assert list(folder_of(out).iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    out = Output(tmp_path / "out.csv", RUN, SCHEMA)
    with out.locked():
        out.write(0, [table(1)])
    left = [folder_of(out) / ".part-000001.parquet.0123abcd.part", tmp_path / ".out.csv.0123abcd.part"]
    for path in left:
        path.write_bytes(b"half")
    other = tmp_path / ".out.csv2.0123abcd.part"
    other.write_bytes(b"another's")
    with out.locked():
        assert not any(path.exists() for path in left)
        assert out.done() == {0: Counts(1, 0)}
    assert other.exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_text_is_joined_of_parts(tmp_path: Path, name: str) -> None:
    out = Output(tmp_path / name, RUN, SCHEMA)
    with out.locked():
        out.write(1, [table(7)])
        out.write(0, [table(1)])
        assert not out.finished
        out.finish()
        assert out.finished
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{name}.attri-batch.json", name]
    text = (tmp_path / name).read_text(encoding="utf-8")
    if name.endswith("csv"):
        rows = list(csv.DictReader(text.splitlines()))
        assert rows[0] == {"id": "1", "score": "0.333333", "top": '["a", "é"]', "error": ""}
    else:
        rows = [json.loads(line) for line in text.splitlines()]
        assert rows[0] == {"id": 1, "score": 0.333333, "top": ["a", "é"], "error": None}
    assert [row["error"] for row in rows][1] == "bad"
    with Output(tmp_path / name, RUN, SCHEMA).locked():
        assert out.finished


def test_rows_of_two_commands_are_not_mixed(tmp_path: Path) -> None:
    for name in ("out", "out.jsonl"):
        with Output(tmp_path / name, RUN, SCHEMA).locked() as _:
            Output(tmp_path / name, RUN, SCHEMA).write(0, [table(1)])
        with pytest.raises(UsageError, match=r"has rows of another command \(labels\): name another --output"):
            Output(tmp_path / name, RUN | {"labels": ["b"]}, SCHEMA).locked().__enter__()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("x")
    (tmp_path / "file.csv").write_text("x")
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    for name, said in {
        "folder": "no attri-batch wrote it",
        "file.csv": "no attri-batch wrote it",
        "file.txt": "is a file",
        "folder.csv": "is a folder",
        "nowhere/out": "the folder .*nowhere does not exist",
    }.items():
        with pytest.raises(UsageError, match=said):
            Output(tmp_path / name, RUN, SCHEMA).locked().__enter__()
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["file.csv", "file.txt", "folder", "folder.csv", "precious"]


def test_after_rows_were_removed_another_command_may_write(tmp_path: Path) -> None:
    out = Output(tmp_path / "out.csv", RUN, SCHEMA)
    with out.locked():
        out.write(0, [table(1)])
        out.finish()
    (tmp_path / "out.csv").unlink()
    with Output(tmp_path / "out.csv", {"labels": ["b"]}, SCHEMA).locked():
        assert out.done() == {}


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    out = Output(tmp_path / "out", RUN, SCHEMA)
    with out.locked(), pytest.raises(FailedError, match="another attri-batch writes to"):
        Output(tmp_path / "out", RUN, SCHEMA).locked().__enter__()
    with out.locked():
        pass


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    out = Output(tmp_path / "out", RUN, SCHEMA)
    with out.locked():
        folder_of(out).rmdir()
        with pytest.raises(SinkError, match=r"part-000000.parquet cannot be written: "):
            out.write(0, [table(1)])
        folder_of(out).mkdir()


def test_a_damaged_part_names_itself(tmp_path: Path) -> None:
    out = Output(tmp_path / "out", RUN, SCHEMA)
    with out.locked():
        (folder_of(out) / "part-000003.parquet").write_bytes(b"half of a part")
        with pytest.raises(SinkError, match=r"part-000003.parquet is damaged .*: remove it"):
            out.done()


def test_bytes_are_no_text() -> None:
    with pytest.raises(UsageError, match="column 'thumb' is of bytes"):
        check_text(pa.schema([("thumb", pa.binary())]))
