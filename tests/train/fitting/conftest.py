"""A small training on real images, and one that is finished."""

from __future__ import annotations

import pytest
from support.training import PROMPT, QUICK

from attri.train.data import read_data
from attri.train.fitting import fit
from attri.train.model.backbone import load_backbone


@pytest.fixture(scope="module")
def backbone():
    return load_backbone()


@pytest.fixture(scope="module")
def dataset(photos):
    return read_data(photos, shots=2)


@pytest.fixture(scope="module")
def finished(backbone, dataset, tmp_path_factory):
    """A finished run with PROMPT and QUICK; read it, copy it, do not write to it."""
    return fit(dataset, backbone, PROMPT, QUICK, tmp_path_factory.mktemp("finished") / "run", latest=False)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
