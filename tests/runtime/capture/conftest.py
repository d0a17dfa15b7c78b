"""A folder with every kind of file that a source may be."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def folder(image_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images at two depths, hidden ones, a video by name, and a text file. The working directory."""
    image = Image.open(image_files[0]).convert("RGB")
    for name in ("b.png", "a.jpg", "deep/c.PNG", ".hidden.png", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "clip.MP4").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))  # no terminal, also under pytest -s
    return tmp_path
