"""Previews that are closed at the end of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.preview import Client
from support.results import FakeControl


@pytest.fixture
def open_preview() -> Iterator[Callable[..., Client]]:
    opened: list[Client] = []
    yield lambda *args, **kwargs: opened.append(Client(*args, **kwargs)) or opened[-1]
    for client in opened:
        client.preview.close()


@pytest.fixture
def client(open_preview: Callable[..., Client]) -> Client:
    return open_preview(FakeControl("camera0", "rtsp://***@host/b"))
