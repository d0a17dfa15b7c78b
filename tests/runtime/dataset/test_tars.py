"""Tars: samples as webdataset has them, and tars that are damaged or hostile."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import add

from attri.runtime.dataset.files import UnreadableError
from attri.runtime.dataset.tars import COLUMNS, Tar
from attri.runtime.errors import ImageError

pytest.importorskip("pyarrow")


def make(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            add(tar, name, data)
    return path


def read(path: Path, suffix: str | None = None) -> tuple[list[dict[str, Any]], list[Any]]:
    found = list(Tar(str(path), None, suffix).read(COLUMNS))
    return [row for rows in found for row in rows.table.to_pylist()], [cell for rows in found for cell in rows.images]


def test_files_of_one_name_are_one_sample(tmp_path: Path) -> None:
    members = {
        "./a/1.cls": b"3",
        "./a/1.jpg": b"one",
        "./a/1.json": b"{}",
        "a/2.seg.png": b"mask",
        "a/2.PNG": b"two",
        "a/2.txt": "ein Apfel \xfc".encode(),
        "README": b"",
        "a/.DS_Store.jpg": b"stray",
        "a/3.txt": b"no image",
    }
    rows, cells = read(make(tmp_path / "x.tar", members))
    assert [(row["key"], row["name"], row["cls"], row["json"], row["txt"]) for row in rows] == [
        ("a/1", "a/1.jpg", "3", "{}", None),
        ("a/2", "a/2.seg.png", None, None, "ein Apfel \xfc"),
        ("a/2", "a/2.PNG", None, None, "ein Apfel \xfc"),
    ]
    assert {row["shard"] for row in rows} == {str(tmp_path / "x.tar")}
    assert cells == [b"one", b"mask", b"two"]
    assert read(tmp_path / "x.tar", "seg.png")[1] == [b"mask"]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tars(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / f"x.tar.{kind}", {f"{number}.jpg": b"%d" % number for number in range(200)}, f"w:{kind}")
    assert read(path)[1] == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_tar_gives_what_comes_before_and_a_row_that_says_so(tmp_path: Path, compressed: bool) -> None:
    path = make(tmp_path / "x.tar", {f"{number}.jpg": bytes([number]) * 5000 for number in range(6)})
    data = path.read_bytes()[: 3 * 5632 + 2000]  # in the middle of the fourth image
    path.write_bytes(gzip.compress(data) if compressed else data)
    rows, cells = read(path)
    assert [row["name"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg", None]
    assert isinstance(cells[-1], ImageError)
    assert "x.tar is damaged from here on" in str(cells[-1])


def test_damage_within_the_compression(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 5000), np.uint8)
    path = make(tmp_path / "x.tgz", {f"{number}.jpg": row.tobytes() for number, row in enumerate(noise)}, "w:gz")
    path.write_bytes(path.read_bytes()[:12000])
    cells = read(path)[1]
    assert cells[0] == noise[0].tobytes()
    assert isinstance(cells[-1], ImageError)


def test_what_is_no_tar_is_one_row(tmp_path: Path) -> None:
    for data in (b"", b"x" * 2000):
        (tmp_path / "x.tar").write_bytes(data)
        rows, cells = read(tmp_path / "x.tar")
        assert len(rows) == 1
        assert "is damaged" in str(cells[0])


def test_a_missing_tar_is_tried_again_another_time(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"x.tar cannot be read: No such file"):
        read(tmp_path / "x.tar")


def test_bombs_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attri.runtime.dataset.tars.MAX_BYTES", 1000)
    members = {"1.jpg": b"x" * 1001, "2.jpg": b"good", "2.txt": b"x" * (1 << 21)}
    rows, cells = read(make(tmp_path / "x.tar.gz", members, "w:gz"))
    assert str(cells[0]) == "1.jpg is too large: over 0 MiB"
    assert cells[1] == b"good"
    assert rows[1]["txt"] is None
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "y.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "a header of 1099511627776 bytes" in str(read(tmp_path / "y.tar")[1][0])


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "2.jpg", b"good")
    assert read(tmp_path / "x.tar")[1] == [b"good"]
