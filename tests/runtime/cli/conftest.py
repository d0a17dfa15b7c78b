"""A labels file."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.results import LABELS


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return path
