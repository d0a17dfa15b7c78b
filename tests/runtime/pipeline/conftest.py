"""A pipeline over scripted sources."""

from __future__ import annotations

import logging

import pytest
from support.bench import Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO, logger="attri")
    return Bench(monkeypatch)
