"""Atomic writes: whole or not at all, on the disk before they have their names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.results import file_size_limit

from attri.runtime._util.atomic import create_file, replacing, rewrite_file, write_file, write_files


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_write_file_makes_and_replaces(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        write_file(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "write",
    [
        write_file,
        rewrite_file,
        create_file,
        lambda path, data: write_files({path.with_name("b"): b"", path: data}),
    ],
    ids=["write_file", "rewrite_file", "create_file", "write_files"],
)
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(
    write: Callable[[Path, bytes], object], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"before")
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        write(tmp_path / "a", bytes(5000))
    assert _names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"before")

    def interrupted() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_bytes() == b"before"
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize("write", [write_file, create_file], ids=["write_file", "create_file"])
def test_the_data_is_on_the_disk_before_its_name_and_then_the_folder(
    write: Callable[[Path, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []

    def sync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").is_dir(), (tmp_path / "a").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write(tmp_path / "a", b"data")
    assert synced == [(False, False), (True, True)]


def test_write_files_names_no_file_before_all_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: named.append(sum(not name.startswith(".") for name in _names(tmp_path))))
    write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert named == [0, 0, 2]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync)
    write_file(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


def test_rewrite_file_keeps_mode_owner_and_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"before")
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12345, 54321)
    before = target.stat()
    link.symlink_to("target")
    rewrite_file(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_create_file_replaces_nothing(tmp_path: Path) -> None:
    assert create_file(tmp_path / "key", b"first", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert not create_file(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert _names(tmp_path) == ["key"]
