"""TensorRT itself, on a device: pytest -m gpu tests/runtime/engines/tensorrt/test_gpu.py

The bundle is $ATTRI_BUNDLE, or ./bundle, and else the tests' own. Where there is one, nothing here needs torch, onnx or
ONNX Runtime; other files of tests do, so the device's pytest is given this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attri.runtime import Classifier
from attri.runtime.bundle import REFERENCE, TEXT, VISION, Bundle
from attri.runtime.engines.select import EngineOptions, open_engines
from attri.runtime.engines.signature import read_signature
from attri.runtime.engines.tensorrt.cache import EngineCache
from attri.runtime.engines.tensorrt.engine import TrtEngine
from attri.runtime.engines.tensorrt.load import find_tensorrt, load_or_build
from attri.runtime.engines.verify import compare, read_reference
from attri.runtime.errors import AttriError, EngineError

pytestmark = pytest.mark.gpu
LABELS = ["red apple", "bird", "a small house", "cat"]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def gpu():
    try:
        return find_tensorrt()
    except AttriError as error:
        pytest.skip(f"there is no GPU with TensorRT here: {error}")


@pytest.fixture(scope="module")
def path(gpu, request, tmp_path_factory):
    """The bundle, which is not written to: engines and the key that seals them live in temporary folders."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    given = Path(os.environ.get("ATTRI_BUNDLE", "bundle"))
    return given if given.is_dir() else request.getfixturevalue("bundle")


@pytest.fixture(scope="module")
def folder(path, gpu, tmp_path_factory):
    """Built engines."""
    folder = tmp_path_factory.mktemp("engines")
    start = time.perf_counter()
    for engine in load_or_build(Bundle.open(path), gpu, folder, print):
        engine.close()
    print(f"built in {time.perf_counter() - start:.0f} s")
    return folder


@pytest.fixture
def engines(path, gpu, folder):
    engines = load_or_build(Bundle.open(path), gpu, folder, print)
    yield dict(zip((VISION, TEXT), engines, strict=True))
    for engine in engines:
        engine.close()


@pytest.fixture
def feeds(path):
    check = read_reference(Bundle.open(path))
    return {
        VISION: {"pixels": check.pixels[:1], **check.vision},
        TEXT: {"retrieved": check.retrieved[:1], **check.text},
    }


def test_the_engines_agree_with_the_model(path, engines):
    for name, engine in engines.items():
        print(name, compare(Bundle.open(path), name, engine))


def test_the_engines_are_in_the_precision_of_the_bundle(path, gpu, folder):
    bundle = Bundle.open(path)
    for name in (VISION, TEXT):
        graph = bundle.graph_name(name, tensorrt=True)
        stem = graph.removesuffix(".onnx")
        cached = EngineCache(folder).find(stem, bundle.manifest.files[graph]["sha256"], gpu.machine)
        print(name, cached.figures)
        if cached.figures["types"] is None:
            pytest.skip("TensorRT fused layers, and its inspector does not tell their types")


@pytest.mark.parametrize("name", [VISION, TEXT])
def test_a_cuda_graph_computes_what_a_first_run_does(engines, feeds, name):
    engine, other = engines[name], {key: np.roll(value, 1, -1) for key, value in feeds[name].items()}
    first = engine.run(feeds[name])
    for _ in range(3):
        np.testing.assert_equal(engine.run(feeds[name]), first)
    assert engine.uses_cuda_graph, "no CUDA graph was made: run with logging.DEBUG to see why"
    if name == VISION:
        assert not np.array_equal(engine.run(other)[0], first[0])
    np.testing.assert_equal(engine.run(feeds[name]), first)


def test_a_batch_computes_what_its_images_do(path, engines):
    engine, check = engines[VISION], read_reference(Bundle.open(path))
    pixels = check.pixels
    count = min(engine.limits["B"], len(pixels))
    together = engine.run({"pixels": pixels[:count], **check.vision})
    for index in range(count):
        alone = engine.run({"pixels": pixels[index : index + 1], **check.vision})
        # Another batch may use other kernels, which sum in another order; half rounds to 1e-3.
        np.testing.assert_allclose(alone[0][0], together[0][index], atol=5e-3)


def test_threads_take_turns(path, engines):
    engine, check = engines[VISION], read_reference(Bundle.open(path))
    pixels = check.pixels
    wanted = [engine.run({"pixels": each[None], **check.vision}) for each in pixels]
    wrong = []

    def work(seed):
        for number in range(25):
            index = (seed + number) % len(pixels)
            if not np.array_equal(engine.run({"pixels": pixels[index][None], **check.vision})[0], wanted[index][0]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_comes_back(path, gpu, folder, feeds):
    def cycle():
        for engine, name in zip(load_or_build(Bundle.open(path), gpu, folder, print), (VISION, TEXT), strict=True):
            for _ in range(5):
                engine.run(feeds[name])
            engine.close()

    cycle()  # CUDA keeps what it has loaded once
    before = gpu.cuda.device().free
    for _ in range(5):
        cycle()
    # On a Jetson the CPU uses the same memory: a leaked engine would be five times its size.
    assert before - gpu.cuda.device().free < 64 * MEGABYTE


def test_outside_the_profile_is_an_error(path, engines):
    engine, check = engines[VISION], read_reference(Bundle.open(path))
    pixels = np.zeros((engine.limits["B"] + 1, *check.pixels.shape[1:]), np.float32)
    with pytest.raises(EngineError, match="its B must be 1 to"):
        engine.run({"pixels": pixels, **check.vision})


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_tensorrt_does_not_take_a_damaged_engine(path, gpu, folder, damage):
    bundle = Bundle.open(path)
    signature = read_signature(bundle, bundle.graph_name(VISION, tensorrt=True))
    (file,) = folder.glob(f"{bundle.graph_name(VISION, tensorrt=True).removesuffix('.onnx')}.*.plan")
    serialized = file.read_bytes()
    bad = {"cut": serialized[: len(serialized) // 2], "changed": b"\0" * 64 + serialized[64:], "empty": b""}[damage]
    with pytest.raises(EngineError, match=f"TensorRT {gpu.trt.__version__} does not take the engine"):
        TrtEngine(gpu.trt, gpu.cuda, bad, signature)


def test_labels_that_change_and_more_than_the_profile(path, folder, engines):
    classifier = Classifier.load(path, LABELS, backend="tensorrt", engine_dir=folder)
    image = np.load(path / REFERENCE)["pixels"][0]
    first = classifier(image)
    many = [*LABELS, *(f"thing number {number}" for number in range(engines[TEXT].limits["C"]))]
    classifier.labels = many
    assert len(classifier(image).probabilities) == len(many)
    classifier.labels = LABELS
    np.testing.assert_allclose(classifier(image).probabilities, first.probabilities, atol=1e-3)
    classifier.close()


def test_onnx_runtime_agrees(path, folder):
    pytest.importorskip("onnxruntime", reason="there is no ONNX Runtime to compare with")
    images = list(np.load(path / REFERENCE)["pixels"])
    ours = Classifier.load(path, backend="tensorrt", engine_dir=folder)(images)
    theirs = Classifier.load(path, backend="onnxruntime", device="cpu")(images)
    same = [a.label == b.label for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(same) >= 0.97  # the loosest of the gates


def test_the_command_takes_tensorrt_by_itself(path, folder, tmp_path):
    Image.fromarray(np.load(path / REFERENCE)["pixels"][0]).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "attri.runtime.cli.run", tmp_path / "photo.png", "--bundle", path, "--json"]
    done = subprocess.run([*command, "--engine-dir", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TensorRT" in done.stderr.splitlines()[0]
    assert json.loads(done.stdout)["label"]


def test_how_long_it_takes(engines, feeds, gpu):
    """Prints, and asserts nothing: pytest -m gpu -s tests/runtime/engines/tensorrt/test_gpu.py -k how_long"""
    print(gpu.machine)
    for name, engine in engines.items():
        for _ in range(10):
            engine.run(feeds[name])
        times = []
        for _ in range(100):
            start = time.perf_counter()
            engine.run(feeds[name])
            times.append(1000 * (time.perf_counter() - start))
        print(f"{name}: median {np.median(times):.2f} ms, 95 in 100 below {np.percentile(times, 95):.2f} ms")


def test_the_gpu_that_was_asked_for_runs(path, folder):
    for engine in open_engines(Bundle.open(path), EngineOptions("tensorrt", "cuda", engine_dir=folder)):
        assert engine.description.startswith("TensorRT ")
        engine.close()
