"""A little of what benchmarks/soak.py does for half an hour; ATTRI_SOAK_SECONDS makes it longer."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="memory and files are read from /proc")
def test_nothing_grows(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    soak = importlib.import_module("benchmarks.soak")
    found = soak.soak(bundle, tmp_path, float(os.environ.get("ATTRI_SOAK_SECONDS", "15")))
    assert found.code == 0, found.log
    assert found.growth() == "", found.log
    assert found.results > 100
    assert found.changes >= 7, found.log  # a source came, got regions, was paused, and went
    refused = [line for line in found.log.splitlines() if '{"error":' in line]
    # The labels file is nonsense now and then, and no source can be added meanwhile.
    assert [line for line in refused if "labels.txt" not in line and "no source guest" not in line] == []
    assert "trying again" in found.log  # it was in bad company
    assert "the labels from before stay" in found.log
    assert "Traceback" not in found.log
