"""What the system says: memory, and the folder for state."""

from __future__ import annotations

from pathlib import Path

import pytest

from attri.runtime._util.system import Memory, memory, read_text, state_folder


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
