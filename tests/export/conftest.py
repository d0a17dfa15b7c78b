"""Graphs that tests of export trace once, and bundles that they only read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.make_bundle import LABELS
from support.shared import made_once

from attri.export.onnx import ExportOptions, export_bundle


@pytest.fixture(scope="session", autouse=True)
def _shared_traces(shared_traces) -> None:
    """For all tests here; one that means the tracer calls `attri.export.graph.trace`."""


@pytest.fixture(scope="session")
def fp16_bundle(pocket_model, image_files, tmp_path_factory) -> Path:
    """A finished fp16 bundle; read it, copy it, do not write to it."""

    def export(path: Path) -> None:
        export_bundle(pocket_model, path, LABELS, image_files[:8], ExportOptions(precision="fp16"))

    return made_once(tmp_path_factory, "fp16-bundle", export)
