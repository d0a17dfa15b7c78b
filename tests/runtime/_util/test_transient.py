"""Causes that pass by themselves end a command with 1, so that a service manager starts it again."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import ssl
from contextlib import closing
from pathlib import Path

import pytest

from attri.runtime._util.transient import may_pass
from attri.runtime.capture.parse import find_source
from attri.runtime.deliver.csv_file import CsvSink
from attri.runtime.deliver.snapshots import SnapshotSink
from attri.runtime.deliver.video import VideoSink
from attri.runtime.errors import AttriError, UsageError
from attri.runtime.labels import load_labels


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EBUSY, errno.EIO, errno.EADDRINUSE, errno.ESTALE, errno.EROFS])
def test_states_that_pass(number: int) -> None:
    assert may_pass(OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.EISDIR, "Is a directory"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "gone.txt"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ssl.SSLError(errno.EIO, "an SSL library's number"),
        socket.gaierror(errno.EBUSY, "a resolver's number"),
        ValueError("not a number"),
        None,
    ],
)
def test_what_another_command_alone_mends(error: Exception | None) -> None:
    assert not may_pass(error)


def test_a_database_that_another_process_holds(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "a.sqlite")) as first,
        closing(sqlite3.connect(tmp_path / "a.sqlite", timeout=0)) as second,
    ):
        first.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            second.execute("BEGIN EXCLUSIVE")
    assert may_pass(caught.value)
    with closing(sqlite3.connect(tmp_path / "b.sqlite")) as base, pytest.raises(sqlite3.OperationalError) as caught:
        base.execute("SELECT * FROM nothing")
    assert not may_pass(caught.value)


def code(what: object, *arguments: object) -> int:
    with pytest.raises(AttriError) as caught:
        what(*arguments)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return caught.value.exit_code


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fstab says that a disk belongs, which is not there."""
    point = tmp_path / "my disk"
    point.mkdir()
    fstab, escaped = tmp_path / "fstab", str(point).replace(" ", r"\040")
    fstab.write_text(f"# UUID=1 {tmp_path}/other ext4\nUUID=2 {escaped} ext4 nofail 0 2\n")
    monkeypatch.setattr("attri.runtime._util.transient.FSTAB", fstab)
    return point


def test_a_disk_that_is_not_mounted_yet(mount: Path) -> None:
    assert code(find_source, str(mount)) == 1
    assert code(find_source, str(mount / "clip.mp4")) == 1
    assert code(find_source, f"file://{mount}/clip.mp4") == 1
    assert code(find_source, f"{mount}/*.mp4") == 1
    assert code(load_labels, mount / "labels.txt") == 1
    assert code(CsvSink, mount / "tables" / "log.csv") == 1
    assert code(VideoSink, mount / "videos" / "out.mp4") == 1


def test_a_name_that_was_mistyped(mount: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "clip.mp4", "empty/clip.mp4", "*.mp4", "other/clip.mp4"):
        assert code(find_source, str(tmp_path / name)) == 2
    assert code(load_labels, tmp_path / "labels.txt") == 2
    assert code(CsvSink, tmp_path / "gone" / "log.csv") == 2
    assert code(VideoSink, tmp_path / "gone" / "out.mp4") == 2


@pytest.mark.parametrize("folder", ["/mnt/usb", "/media/ann/STICK", "/run/media/ann/STICK"])
def test_a_stick_that_is_not_plugged_in(folder: str) -> None:
    assert not Path(folder).exists()
    assert code(find_source, f"{folder}/clip.mp4") == (2 if Path(folder).parents[-2].is_mount() else 1)


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    assert code(CsvSink, Path("/dev/full")) == 1
    assert code(SnapshotSink, Path("/dev/null/x"), 1, 1) == 2


def test_a_usage_error_has_exit_code_2() -> None:
    assert UsageError("wrong").exit_code == 2
