"""Previews that are closed at the end of a test, and a browser for the tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.chromium import Browser
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
