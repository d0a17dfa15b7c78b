from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side get one thread each, before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that spins takes a core from whoever has work


with contextlib.suppress(ImportError):  # a device has pytest, and no more than a test of TensorRT needs
    import hypothesis

    # No example is too slow: a busy machine takes a second for what an idle one does in milliseconds.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("unhurried", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("unhurried")


TESTS = Path(__file__).parent
# What the files and folders of tests need. With --quick they are not even imported.
LANES = {
    "training": "train/fitting train/evaluation train/training/test_distributed.py train/report",
    "models": "train/model/test_backbone.py train/model/test_fold.py train/model/test_retrieval.py "
    "train/model/test_towers.py train/model/test_names.py train/model/test_catalogue.py",
    "export": "export/graph export/bundle/test_report.py export/parity/test_drift.py export/test_command.py "
    "export/test_onnx.py export/test_families.py export/test_score_calibration.py export/test_quantize.py "
    "export/test_roundtrip.py calibration/test_activation_ranges.py calibration/test_qdq.py "
    "runtime/engines/tensorrt/test_rtx.py",
    "browser": "runtime/web/test_page.py",
    "server": "runtime/deliver/test_mqtt.py runtime/deliver/test_mqtt_tasks.py runtime/capture/test_streams.py "
    "runtime/web/test_server.py runtime/web/test_server_tasks.py runtime/web/test_connections.py",
    "process": "docs runtime/cli runtime/capture/test_cameras.py runtime/engines/tensorrt/test_load.py "
    "runtime/engines/tensorrt/test_fallback.py runtime/engines/tensorrt/test_gpu_tests.py "
    "benchmarks test_project.py test_imports.py",
}
LONGEST = "test_the_three_commands_as_readme_writes_them"
MODEL = "pocket_model"  # the fixture that loads PyTorch's


def lanes_of(path: Path) -> set[str]:
    names = {path.relative_to(TESTS).as_posix(), *map(str, path.relative_to(TESTS).parents)}
    return {lane for lane, places in LANES.items() if names & set(places.split())}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests that load no PyTorch model and start nothing")


def pytest_configure() -> None:
    # A shell that starts the tests in the background has SIGINT ignored, which they and their children would inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    quick = config.getoption("--quick") and collection_path.is_relative_to(TESTS)
    return True if quick and lanes_of(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for lane in sorted(lanes_of(item.path)):
            item.add_marker(lane)
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=[item for item in items if MODEL in fixtures_of(item)])
        items[:] = [item for item in items if MODEL not in fixtures_of(item)]
    # Workers begin with a half each: one with what trains and exports, the other with what needs no bundle, until the
    # first has made it. Files stay together, because of what a module's tests share.
    # The longest of all comes first, or at the end one worker would have it and the other nothing.
    waiting = {item.path for item in items if "bundle" in fixtures_of(item)}
    longest = {item.path for item in items if lanes_of(item.path) & {"training", "export"}}
    items.sort(key=lambda item: (item.name != LONGEST, item.path not in longest, item.path in waiting))


def fixtures_of(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()


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

    from support.shared import made_once

    from attri.train.pocket import IMAGES

    def copy(root: Path) -> None:
        for part, count in (("train", 4), ("test", 1)):
            for folder in sorted((IMAGES / part).iterdir())[:5]:
                (root / "photos" / part / folder.name).mkdir(parents=True)
                for image in sorted(folder.iterdir())[:count]:
                    shutil.copy(image, root / "photos" / part / folder.name)

    return made_once(tmp_path_factory, "data", copy) / "photos"


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


@pytest.fixture(scope="session")
def traced(tmp_path_factory):
    """traced(trace_vision) or traced(trace_text): that function, tracing each model once in a session."""
    from support.traces import shared

    return functools.partial(shared, tmp_path_factory)


@pytest.fixture(scope="session")
def shared_traces(traced) -> Iterator[None]:
    """From here on `export_bundle` traces each model once in a session."""
    from attri.export import onnx as exporter

    with pytest.MonkeyPatch.context() as patch:
        for trace in (exporter.trace_vision, exporter.trace_text):
            patch.setattr(exporter, trace.__name__, traced(trace))
        yield


@pytest.fixture(scope="session")
def bundle(request, image_files, tmp_path_factory) -> Path:
    """A finished fp32 bundle, or $ATTRI_TEST_BUNDLE; read it, copy it, do not write to it."""
    if given := os.environ.get("ATTRI_TEST_BUNDLE"):
        return Path(given)
    from support.make_bundle import LABELS
    from support.shared import made_once

    def export(path: Path) -> None:
        from attri.export.onnx import export_bundle

        request.getfixturevalue("shared_traces")
        export_bundle(request.getfixturevalue("pocket_model"), path, LABELS, image_files[:8])

    return made_once(tmp_path_factory, "fp32-bundle", export)
