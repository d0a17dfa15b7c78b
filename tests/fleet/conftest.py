from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import SMALL, StaticServer, make_repository, push_files, serving

from attri.fleet.device import download
from attri.fleet.repository.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A signed repository with one release of a few bytes in channel stable."""
    repository = make_repository(tmp_path / "repo")
    push_files(repository, SMALL)
    return repository


@pytest.fixture
def server(repository: Repository) -> Iterator[StaticServer]:
    """A web server of that repository."""
    with serving(repository.folder) as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST", 0.01)  # seconds between tries
    monkeypatch.setattr("os.fsync", lambda _: None)  # nobody cuts the power here; tests/support/faults.py counts them
