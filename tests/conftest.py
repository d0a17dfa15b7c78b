from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
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
    "models": "train/data/test_read.py train/model train/training runtime/test_preprocess.py",
    "export": "export calibration/test_activation_ranges.py calibration/test_qdq.py tools "
    "runtime/engines/tensorrt/test_rtx.py",
    "browser": "runtime/web/test_page.py runtime/web/test_page_sources.py runtime/web/test_review_page.py",
    "server": "runtime/deliver/test_mqtt.py runtime/deliver/test_mqtt_tasks.py runtime/capture/test_streams.py "
    "runtime/capture/frigate/test_capture.py runtime/web/test_classify.py runtime/web/test_review.py "
    "runtime/web/test_explain.py runtime/web/test_server.py runtime/web/test_server_tasks.py "
    "runtime/web/test_connections.py "
    "fleet/device/test_download.py fleet/device/test_trust.py fleet/device/test_update.py fleet/test_reports.py",
    "process": "docs runtime/cli runtime/capture/test_cameras.py runtime/engines/tensorrt/test_load.py "
    "runtime/engines/tensorrt/test_fallback.py runtime/engines/tensorrt/test_gpu_tests.py "
    "fleet/cli fleet/device/test_bounded.py fleet/device/test_check.py fleet/device/test_follow.py "
    "fleet/device/test_shadow.py fleet/device/test_together.py "
    "benchmarks test_project.py test_imports.py test_public_api.py",
}
LONGEST = "test_the_three_commands_as_readme_writes_them"
MODELS = {"pocket_model", "siglip_bundle", "open_clip_tokenizer"}  # fixtures that load PyTorch, or export


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
        long = [item for item in items if MODELS & set(fixtures_of(item)) or item.get_closest_marker("stress")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    # Workers begin with a half each: one with what trains and exports, the other with what needs no bundle, until the
    # first has made it. Files stay together, because of what a module's tests share.
    # The longest of all comes first, or at the end one worker would have it and the other nothing.
    waiting = {item.path for item in items if "bundle" in fixtures_of(item)}
    longest = {item.path for item in items if lanes_of(item.path) & {"training", "export"}}
    items.sort(key=lambda item: (item.name != LONGEST, item.path not in longest, item.path in waiting))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("--quick") and "torch" in sys.modules:  # seconds of each process
        raise pytest.UsageError("a test of --quick imports PyTorch: name its file in LANES, or import it in the test")


def fixtures_of(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()


@pytest.fixture(scope="session", autouse=True)
def state_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What attri keeps between runs is kept from one test to the next, and from the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


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
        for trace in (exporter.trace_vision, exporter.trace_text, exporter.trace_label):
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


@pytest.fixture(scope="session")
def explained_bundle(bundle, pocket_model, tmp_path_factory) -> Path:
    """That bundle with the graph of explanations; do not write to it."""
    import dataclasses
    import shutil

    from support.shared import made_once

    def add_graph(path: Path) -> None:
        from attri.export.bundle import writer
        from attri.export.graph.trace import trace_explain
        from attri.export.onnx import save_graph
        from attri.runtime.bundle import EXPLAIN, MANIFEST, PROMPT, Bundle

        shutil.copytree(bundle, path, ignore=shutil.ignore_patterns("engines", EXPLAIN))
        save_graph(trace_explain(pocket_model, 18), path / EXPLAIN)
        with Bundle.open(bundle) as given:
            manifest = dataclasses.replace(given.manifest, files={}, graphs={})
            (path / MANIFEST).unlink()
            (path / PROMPT).unlink()
            writer.save(Bundle(path, manifest, given.prompt))

    return made_once(tmp_path_factory, "explained-bundle", add_graph)


@pytest.fixture(scope="session")
def int8_bundle(request, image_files, tmp_path_factory) -> Path:
    """A finished int8 bundle of the same model; beside it see `support.int8.make_int8`. Do not write to it."""
    from support.shared import made_once

    def export(folder: Path) -> None:
        from support.int8 import make_int8

        request.getfixturevalue("shared_traces")
        make_int8(request.getfixturevalue("pocket_model"), image_files, folder)

    return made_once(tmp_path_factory, "int8", export) / "bundle"


@pytest.fixture(scope="session")
def siglip_model():
    """A tiny model whose text tower is not causal, with prompts that nobody trained."""
    from support.models import prompted_tower

    return prompted_tower("ViT-B-16-SigLIP")


@pytest.fixture(scope="session")
def siglip_bundle(request, image_files, tmp_path_factory) -> Path:
    """Its finished fp32 bundle; read it, copy it, do not write to it."""
    from support.make_bundle import LABELS
    from support.shared import made_once

    def export(path: Path) -> None:
        from attri.export.onnx import export_bundle

        request.getfixturevalue("shared_traces")
        export_bundle(request.getfixturevalue("siglip_model"), path, LABELS, image_files[:6])

    return made_once(tmp_path_factory, "siglip-bundle", export)
