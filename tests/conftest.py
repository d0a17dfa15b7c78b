from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side get one thread each, before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that spins takes a core from whoever has work


# What the files and folders of tests need. `make quick` leaves all of them out.
LANES = {
    "training": "train/test_fit.py train/evaluation train/training/test_distributed.py train/report",
    "export": "export calibration/test_activation_ranges.py calibration/test_qdq.py "
    "runtime/engines/tensorrt/test_rtx.py",
    "browser": "runtime/web/test_page.py",
    "server": "runtime/deliver/test_mqtt.py runtime/capture/test_streams.py runtime/web/test_server.py",
    "process": "docs runtime/cli runtime/capture/test_cameras.py runtime/engines/tensorrt/test_load.py "
    "runtime/engines/tensorrt/test_gpu_tests.py benchmarks test_project.py test_imports.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        names = {item.path.relative_to(tests).as_posix(), *map(str, item.path.relative_to(tests).parents)}
        for lane, places in LANES.items():
            if names & set(places.split()):
                item.add_marker(lane)


@pytest.fixture(scope="session")
def image_files() -> list[Path]:
    """Real images of the embedded set, every class in turn."""
    from attri.train.pocket import IMAGES

    classes = [sorted(folder.glob("*.png")) for folder in sorted((IMAGES / "test").iterdir())]
    return [files[i] for i in range(max(map(len, classes))) for files in classes if i < len(files)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Five of the embedded classes, a folder each: 4 real images to train on, 1 to test."""
    import shutil

    from attri.train.pocket import IMAGES

    root = tmp_path_factory.mktemp("data") / "photos"
    for part, count in (("train", 4), ("test", 1)):
        for folder in sorted((IMAGES / part).iterdir())[:5]:
            (root / part / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, root / part / folder.name)
    return root


@pytest.fixture(scope="session")
def make_pixels(image_files):
    """make_pixels(preprocess, n): n real images as a model reads them, float32 [n, 3, S, S]"""

    def read(preprocess, n):
        return np.stack([preprocess(path) for path in image_files[:n]])

    return read


@pytest.fixture(scope="session")
def pocket_model():
    """The embedded backbone with prompts that nobody trained."""
    from support.make_bundle import random_model

    return random_model()


@pytest.fixture
def shared_traces(monkeypatch):
    """Graphs of the same model are traced once for all tests that use this."""
    from support.traces import cached

    from attri.export import onnx as exporter

    monkeypatch.setattr(exporter, "trace_vision", cached(exporter.trace_vision))
    monkeypatch.setattr(exporter, "trace_text", cached(exporter.trace_text))


@pytest.fixture(scope="session")
def bundle(request, image_files, tmp_path_factory) -> Path:
    """A finished fp32 bundle, or $ATTRI_TEST_BUNDLE; read it, copy it, do not write to it."""
    if given := os.environ.get("ATTRI_TEST_BUNDLE"):
        return Path(given)
    from support.make_bundle import LABELS
    from support.shared import made_once

    def export(path: Path) -> None:
        from attri.export.onnx import export_bundle

        export_bundle(request.getfixturevalue("pocket_model"), path, LABELS, image_files[:8])

    return made_once(tmp_path_factory, "fp32-bundle", export)
