"""systemd's side: a real datagram socket, and units that its own checker reads."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.results import FakeControl

from attri.runtime.capture.base import SourceState
from attri.runtime.cli.service.systemd import WatchdogSink, notify, unit_file
from attri.runtime.deliver.result import SourceHealth
from attri.runtime.errors import UsageError


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(5)

    def hear(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def hear_until(self, what: Callable[[list[str]], bool]) -> None:
        for _ in range(200):
            if what(self.hear()):
                return
        pytest.fail("never heard")


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@attri-{os.getpid()}-{tmp_path.name}"
    manager = Manager(name.replace("@", "\0"))
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    yield manager
    manager.socket.close()


class Counting(FakeControl):
    """A source of which so many frames are classified between two looks, and so many wait."""

    frames = step = waiting = 0

    def health(self) -> list[SourceHealth]:
        self.frames += self.step
        return [replace(each, frames=self.frames, waiting=self.waiting) for each in super().health()]


def beats(lines: list[str]) -> bool:
    return "WATCHDOG=1" in lines


def test_a_life(manager: Manager) -> None:
    watchdog = WatchdogSink(FakeControl("camera0", "camera1"))
    status = "STATUS=2 of 2 sources live, 59.4 frames/s"
    assert manager.hear() == ["READY=1", status]
    moments = []
    for _ in range(6):
        assert manager.hear() == ["WATCHDOG=1", status]
        moments.append(time.monotonic())
    apart = sorted(after - before for before, after in itertools.pairwise(moments))
    assert 0.02 < apart[2] < 0.19  # twice as often as it has to be
    watchdog.close()
    manager.hear_until(lambda lines: "STOPPING=1" in lines)


def test_frames_that_wait_and_are_not_classified_are_a_reason(manager: Manager) -> None:
    control = Counting()
    control.step, control.waiting = 1, 5  # slow, but it works
    watchdog = WatchdogSink(control)
    manager.hear()
    assert all(beats(manager.hear()) for _ in range(6))
    control.step = 0  # stuck, and silent once the time that is granted is over
    manager.hear_until(lambda lines: not beats(lines))
    assert not any(beats(manager.hear()) for _ in range(3))
    control.step = 1
    manager.hear_until(beats)
    watchdog.close()


@pytest.mark.parametrize("state", ["retrying", "frozen", "live"])
def test_a_source_that_gives_nothing_is_no_reason(manager: Manager, state: SourceState) -> None:
    watchdog = WatchdogSink(Counting(state=state))
    manager.hear()
    assert all(beats(manager.hear()) for _ in range(6))
    watchdog.close()


def test_a_watchdog_of_somebody_else_is_not_ours(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    monkeypatch.setattr("attri.runtime.cli.service.systemd.STATUS_PERIOD", 0.05)
    watchdog = WatchdogSink(FakeControl())
    assert not any(beats(manager.hear()) for _ in range(6))
    watchdog.close()


@pytest.mark.parametrize("address", ["", "/nothing/there", "x" * 300])
def test_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


@pytest.fixture
def as_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As if attri-run were what runs; its path has a blank, as paths have."""
    program = tmp_path / "my programs" / "attri-run"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.chdir(tmp_path)
    return program


ODD = ["camera0", "--labels", "my labels.txt", "--template", 'a "photo" of {} at 100% for $5\\', "--install-service"]


def test_a_unit(as_command: Path, tmp_path: Path) -> None:
    unit = unit_file(ODD)
    (line,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
    sentence = r'"a \"photo\" of {} at 100%% for $$5\\"'
    assert line == f'"{as_command}" camera0 --labels "my labels.txt" --template {sentence} --quiet'
    assert f"WorkingDirectory={tmp_path}\n" in unit
    assert "Type=notify\n" in unit
    assert "WatchdogSec=60\n" in unit


def test_a_unit_that_follows_updates_has_no_watchdog_that_a_new_start_would_trip(as_command: Path) -> None:
    for words in (["--follow", "https://host/repo"], ["--follow=https://host/repo"]):
        unit = unit_file(["camera0", *words])
        assert "Type=exec\n" in unit
        assert "Watchdog" not in unit
        assert "Restart=on-failure\n" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_the_unit(as_command: Path, tmp_path: Path) -> None:
    file = tmp_path / "attri.service"
    file.write_text(unit_file(ODD))
    check = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, timeout=60)
    ours = [line for line in check.stderr.splitlines() if "attri" in line]
    assert ours == []
    file.write_text(file.read_text().replace("WatchdogSec=60", "WatchdogSec=soon"))
    check = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, timeout=60)
    assert "Failed to parse" in check.stderr  # it does look


@pytest.mark.parametrize(
    "source",
    ["rtsp://ann:s3cret@host/a", "http://h/video?token=s3cret", "rtsp:/ann:s3cret@host/a", "ann:s3cret@host/a"],
)
def test_no_password_goes_into_a_unit(as_command: Path, source: str) -> None:
    with pytest.raises(UsageError, match="--sources") as caught:
        unit_file([source])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("words", [["--mqtt", "mqtt://ann:s3cret@h"], ["--mqtt=mqtt://ann:s3cret@h"]])
def test_no_password_of_a_broker_goes_into_a_unit(as_command: Path, words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^--mqtt: no password in the URL.*secrets\.env") as caught:
        unit_file(["camera0", *words, "--quiet"])
    assert "s3cret" not in str(caught.value)
    assert "source" not in str(caught.value)


@pytest.mark.parametrize("words", [["--webhook", "https://h/T0KEN"], ["--webhook=https://h/T0KEN"]])
def test_no_webhook_goes_into_a_unit(as_command: Path, words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"ATTRI_WEBHOOK=URL into /etc/attri/secrets\.env") as caught:
        unit_file(["camera0", *words])
    assert "T0KEN" not in str(caught.value)


def test_a_user_of_a_broker_may_stand_in_a_unit(as_command: Path) -> None:
    words = ["camera0", "--mqtt", "mqtt://ann@broker", "--webhook-secret-file", "secret"]
    assert " ".join(words) in unit_file(words)


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_the_journal_gets_no_line_for_a_frame(as_command: Path, option: str) -> None:
    assert re.search("^ExecStart=.* camera0( --quiet)?( --json)?$", unit_file(["camera0", option]), re.MULTILINE)
    assert unit_file(["camera0", option]).count(" --") == 1
