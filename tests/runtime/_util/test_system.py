"""What the system says: memory, and the folder for state."""

from __future__ import annotations

from pathlib import Path

import pytest

from attri.runtime._util import system
from attri.runtime._util.system import Memory, memory, read_text, recall, remember, state_folder


def test_memory_of_this_machine() -> None:
    found = memory()
    assert found is not None
    assert 0 < found.available <= found.total


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:  4 kB\n", Memory(16 << 10, 4 << 10)),
        ("MemTotal:  16 kB\n", None),
        ("MemTotal:\nMemAvailable: x kB\n", None),
        ("", None),
    ],
)
def test_memory_of_a_file(text: str, expected: Memory | None, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(text)
    assert memory(tmp_path / "meminfo") == expected


def test_memory_without_proc(tmp_path: Path) -> None:
    assert memory(tmp_path / "none") is None


def test_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder() == Path("/state/attri")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert state_folder() == Path("/home/somebody/.local/state/attri")


def test_read_text_of_a_device_tree(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0\n")
    assert read_text(tmp_path / "model") == "NVIDIA Jetson Orin Nano"
    assert read_text(tmp_path / "none") == ""


def test_what_is_remembered_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert recall("speed", {"graph": "a"}) is None
    remember("speed", {"graph": "a"}, {"ms": 3.5})
    assert recall("speed", {"graph": "a"}) == {"ms": 3.5}
    assert recall("speed", {"graph": "b"}) is recall("size", {"graph": "a"}) is None
    monkeypatch.setattr(system, "processor", lambda: "another machine")
    assert recall("speed", {"graph": "a"}) is None


def test_to_remember_nothing_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember("speed", {}, 1)
    assert recall("speed", {}) is None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    remember("speed", {}, 1)
    (file,) = (tmp_path / "attri" / "speed").iterdir()
    file.write_text("no JSON")
    assert recall("speed", {}) is None
