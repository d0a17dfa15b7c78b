from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the literal reference and the small models are modules of the tests


@pytest.fixture(scope="session", autouse=True)
def _two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def picture_files() -> list[Path]:
    """Real pictures of the embedded set, every class in turn."""
    from attri.train.pocket import IMAGES

    classes = [sorted(folder.glob("*.png")) for folder in sorted((IMAGES / "test").iterdir())]
    return [files[i] for i in range(max(map(len, classes))) for files in classes if i < len(files)]


@pytest.fixture(scope="session")
def pictures(picture_files):
    """pictures(preprocess, n): n real pictures as a model reads them, float32 [n, 3, S, S]"""

    def read(preprocess, n):
        return np.stack([preprocess(path) for path in picture_files[:n]])

    return read
