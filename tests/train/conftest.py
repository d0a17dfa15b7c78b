"""Tests of training draw no figures, which takes longer than the smallest training, but where they are about them."""

from __future__ import annotations

import pytest


@pytest.fixture
def figures() -> None:
    """For a test that reads the figures of a run."""


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch) -> None:
    if "figures" not in request.fixturenames:
        monkeypatch.setattr("attri.train.fitting.draw_figures", lambda *_: [])
