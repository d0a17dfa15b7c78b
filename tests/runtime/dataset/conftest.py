"""The dataset of `support.datasets`, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.datasets import Dataset, write_dataset


@pytest.fixture(scope="session")
def dataset(image_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pytest.importorskip("pyarrow")
    return write_dataset(image_files[:24], tmp_path_factory.mktemp("dataset"))
