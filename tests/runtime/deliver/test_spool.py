"""The spool on disks that are full and files that are damaged, and its memory of retained topics."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.results import FakeControl, file_size_limit

from attri.runtime.cli.command import Command
from attri.runtime.cli.sink_options import Outputs, output_options
from attri.runtime.cli.sinks import check_sinks, open_sinks
from attri.runtime.deliver.spool import Spool, spool_path
from attri.runtime.errors import AttriError, SinkError, UsageError


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own without a free byte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
    assert os.statvfs(folder).f_bavail == 0


def test_a_disk_that_is_full_at_the_start(full_disk: Path) -> None:
    fill(full_disk)
    for path in (full_disk / "s.sqlite", full_disk / "new" / "s.sqlite"):
        with pytest.raises(SinkError, match="make room for events") as caught:
            Spool(path)
        assert "\n" not in str(caught.value)


def test_a_disk_that_becomes_full_keeps_what_waits(full_disk: Path) -> None:
    spool = Spool(full_disk / "s.sqlite")
    spool.add("t", b"before")
    fill(full_disk)
    with pytest.raises(SinkError, match="full"):
        spool.add("t", bytes(20_000))
    with pytest.raises(SinkError, match="full"):
        spool.retain([f"topic {number}" for number in range(2000)])
    (full_disk / "filler").unlink()
    spool.add("t", b"after")
    assert [message.body for message in spool.after(0, 9)] == [b"before", b"after"]
    spool.close()


@pytest.mark.parametrize("data", [None, b"not a database, " * 99])
def test_a_full_disk_in_one_line_with_exit_code_1(data: bytes | None, tmp_path: Path, capsys, monkeypatch) -> None:
    """1, since room may come: a service is started again."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # that of this stderr, which others must not get

    @click.command(cls=Command)
    @output_options
    def command(outputs: Outputs) -> None:
        open_sinks(outputs, check_sinks(outputs), FakeControl())

    words = ["--mqtt", "mqtt://127.0.0.1:1", "--mqtt-topic", "t", "--spool", str(tmp_path)]
    if data is not None:
        with pytest.raises(SystemExit), file_size_limit(0):  # to learn what the spool is called
            command(words)
        next(tmp_path.glob("*.sqlite")).write_bytes(data)
        capsys.readouterr()
    with pytest.raises(SystemExit) as stop, file_size_limit(8192):
        command(words)
    err = capsys.readouterr().err
    assert stop.value.code == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1 + (data is not None)  # the damaged file was put aside


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere/at/all")])
def test_what_is_no_file(make, tmp_path: Path) -> None:
    make(tmp_path / "s.sqlite")
    with pytest.raises(UsageError, match="another spool folder"):
        Spool(tmp_path / "s.sqlite")


def test_a_table_of_another_program(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "s.sqlite")
    with base:
        base.execute("CREATE TABLE messages (id INTEGER, words TEXT)")
    base.close()
    with pytest.raises(UsageError, match=r"no such column.*another spool folder"):
        Spool(tmp_path / "s.sqlite")


@pytest.fixture(scope="module")
def filled() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder, "s.sqlite"))
        for number in range(40):
            spool.add(f"attri/x/camera{number}", b"x" * 300)
        spool.retain(["attri/x/a", "attri/x/b"])
        spool.close()
        return Path(folder, "s.sqlite").read_bytes()


_EDITS = st.lists(st.tuples(st.one_of(st.integers(0, 4200), st.integers(0)), st.integers(0, 255)), max_size=20)


@pytest.mark.stress
@settings(max_examples=150, deadline=None)
@given(edits=_EDITS, cut=st.none() | st.integers(0))
def test_a_damaged_file_is_no_traceback(filled: bytes, edits: list[tuple[int, int]], cut: int | None) -> None:
    """It is put aside, or refused, or gives messages of the right types, as many as it counts."""
    data = bytearray(filled)
    for place, value in edits:
        data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.sqlite")
        path.write_bytes(data if cut is None else data[: cut % len(data)])
        try:
            spool = Spool(path)
        except AttriError:
            return
        spool.add("t", b"new")
        messages = spool.after(0, 99)
        assert {tuple(map(type, message)) for message in messages} == {(int, float, str, bytes)}
        assert messages[-1].body == b"new"
        assert all(isinstance(topic, str) for topic in spool.retain([]))
        spool.done(messages[-1].id)
        assert len(spool) == 0
        spool.close()


def test_a_damaged_schema_is_put_aside(tmp_path: Path, filled: bytes) -> None:
    """SQLite quotes it in an error, which Python may not be able to decode."""
    data = filled.replace(b"sqlite_autoindex_retained_1", b"sqlite_autoindex_retained\xff\xfe")
    assert data != filled
    (tmp_path / "s.sqlite").write_bytes(data)
    spool = Spool(tmp_path / "s.sqlite")
    assert len(spool) == 0
    spool.close()
    assert (tmp_path / "s.broken").read_bytes() == data


def test_topics_are_remembered_until_they_are_cleared(tmp_path: Path) -> None:
    def run(*topics: str, cleared: tuple[str, ...] = ()) -> list[str]:
        spool = Spool(tmp_path / "s.sqlite")
        stale = spool.retain(topics)
        for topic in cleared:
            spool.forget(topic)
        spool.close()
        return stale

    assert run("a", "b") == []
    assert run("b", "c") == ["a"]
    assert run("c", "a") == ["b"]  # it came back before it was cleared
    assert run("c", cleared=("a",)) == ["a", "b"]
    assert run("c") == ["b"]


def test_a_spool_that_is_closed_forgets_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.sqlite")
    spool.retain(["a"])
    spool.close()
    spool.forget("a")
    again = Spool(tmp_path / "s.sqlite")
    assert again.retain([]) == ["a"]
    again.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="another spool folder"):
        Spool(tmp_path / "s.sqlite")
    tmp_path.chmod(0o700)


def test_a_spool_is_bounded_and_says_so(tmp_path: Path, caplog) -> None:
    spool = Spool(tmp_path / "s.sqlite", limit=3)
    for number in range(6):
        spool.add("t", b"%d" % number)
    assert [message.body for message in spool.after(0, 9)] == [b"3", b"4", b"5"]
    assert (len(spool), spool.dropped) == (3, 3)
    assert caplog.text.count("the oldest are dropped") == 1
    spool.done(spool.after(0, 9)[1].id)
    spool.close()
    again = Spool(tmp_path / "s.sqlite")
    assert [message.body for message in again.after(0, 9)] == [b"5"]
    assert len(again) == 1
    again.close()


def test_a_spool_belongs_to_one(tmp_path: Path) -> None:
    first = Spool(tmp_path / "s.sqlite")
    with pytest.raises(UsageError, match="in use by another attri-run"):
        Spool(tmp_path / "s.sqlite")
    first.close()
    Spool(tmp_path / "s.sqlite").close()


@pytest.mark.parametrize("text", [b"not a database, " * 99, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_spool_is_put_aside(tmp_path: Path, text: bytes, caplog) -> None:
    (tmp_path / "s.sqlite").write_bytes(text)
    spool = Spool(tmp_path / "s.sqlite")
    spool.add("t", b"x")
    spool.close()
    assert (tmp_path / "s.broken").read_bytes() == text
    assert "was damaged" in caplog.text


def test_a_spool_with_a_torn_page_is_put_aside(tmp_path: Path, caplog) -> None:
    path, page = tmp_path / "s.sqlite", 4096
    spool = Spool(path)
    for _ in range(2000):
        spool.add("t", bytes(200))
    spool.close()
    torn = bytearray(path.read_bytes())
    middle = len(torn) // page // 2 * page
    torn[middle : middle + page] = b"\xff" * page
    path.write_bytes(torn)
    spool = Spool(path)
    assert len(spool) == 0
    spool.add("t", b"x")
    assert [message.body for message in spool.after(0, 9)] == [b"x"]
    spool.close()
    assert (tmp_path / "s.broken").read_bytes() == torn
    assert "was damaged" in caplog.text


class Unreadable(sqlite3.Connection):
    """A connection to a disk that gives no messages while `is_broken`."""

    is_broken = False

    def execute(self, query: str, *rest: Any) -> sqlite3.Cursor:
        if self.is_broken and query.startswith("SELECT id"):
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(query, *rest)


def test_a_spool_that_cannot_be_read_for_a_while(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Unreadable))
    spool = Spool(tmp_path / "s.sqlite")
    monkeypatch.setattr(Unreadable, "is_broken", True)
    spool.add("t", b"x")
    assert spool.after(0, 9) == spool.after(0, 9) == []
    assert caplog.text.count("disk I/O error") == 1
    monkeypatch.setattr(Unreadable, "is_broken", False)
    assert [message.body for message in spool.after(0, 9)] == [b"x"]
    spool.close()


def test_a_spool_on_a_full_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.sqlite")
    spool.add("t", b"before")
    with file_size_limit(50_000), pytest.raises(SinkError, match="sqlite"):
        spool.add("t", bytes(200_000))
    spool.add("t", b"after")
    assert [message.body for message in spool.after(0, 9)] == [b"before", b"after"]
    spool.close()


def test_where_a_spool_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert spool_path(None, "mqtt", "mqtt://h:1/a").parent == Path("/state/attri")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/attri:/other")
    assert spool_path(None, "mqtt", "mqtt://h:1/a").parent == Path("/var/lib/attri")
    assert spool_path(tmp_path, "mqtt", "mqtt://h/a/b") != spool_path(tmp_path, "mqtt", "mqtt://h/a.b")
    assert re.fullmatch(r"webhook-h-[0-9a-f]{8}\.sqlite", spool_path(tmp_path, "webhook", "https://h:1/T0KEN").name)
    with pytest.raises(UsageError, match="another spool folder"):
        Spool(Path("/proc/nothing/s.sqlite"))
