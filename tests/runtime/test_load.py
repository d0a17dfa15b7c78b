"""Classifier.load: bundles that were changed or are swapped, devices and engines that are not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.manifests import edit_manifest

from attri.runtime import AttriError, Classifier
from attri.runtime.bundle import REFERENCE, TEXT, VISION, file_entry
from attri.runtime.errors import EngineError, MissingExtra, ParityError, UsageError

LABELS = ["red apple", "green apple", "bird", "a small house", "car"]


def test_a_graph_that_gives_other_answers_is_not_loaded(bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(bundle, tmp_path / "copy"))
    edit_manifest(path, lambda raw: raw["image"].update(std=[0.1, 0.2, 0.3]))
    with pytest.raises(ParityError, match=r"does not agree with the PyTorch model: image features of vision.onnx is"):
        Classifier.load(path, threads=1)


def negated(bundle: Path, path: Path) -> None:
    """Another bundle: what its graphs give is turned round, so that two graphs of it agree, and with others do not."""
    import onnx

    shutil.copytree(bundle, path)
    for name, output in ((VISION, "image_features"), (TEXT, "text_features")):
        proto = onnx.load(path / name)
        for node in proto.graph.node:
            node.output[:] = [f"{each}.before" if each == output else each for each in node.output]
            node.input[:] = [f"{each}.before" if each == output else each for each in node.input]
        proto.graph.node.append(onnx.helper.make_node("Neg", [f"{output}.before"], [output]))
        (path / name).write_bytes(proto.SerializeToString())
    with np.load(path / REFERENCE) as file:
        arrays = {name: -value if name.endswith("_features") else value for name, value in file.items()}
    np.savez_compressed(path / REFERENCE, **arrays)
    files = {name: file_entry(path / name) for name in (VISION, TEXT, REFERENCE)}
    edit_manifest(path, lambda raw: raw["files"].update(files) or raw.update(created="negated"))


SWAP = """
import os, sys, time
path, *others = sys.argv[1:]
print(flush=True)
while True:  # as `attri.export.bundle.writer.replace_dir` does it, with three folders in turn
    os.rename(path, others[1])
    os.rename(others[0], path)
    others.reverse()
    time.sleep(0.005)
"""


@pytest.mark.stress
def test_a_bundle_that_is_swapped_all_the_time_loads_whole(
    bundle: Path, tmp_path: Path, image_files: list[Path]
) -> None:
    paths = [tmp_path / name for name in ("bundle", "next", "old")]
    shutil.copytree(bundle, paths[0])
    negated(bundle, paths[1])
    pixels = Classifier.load(bundle, LABELS, threads=1).bundle.preprocess()(image_files[0])[None]
    wanted = {}
    for path in paths[:2]:
        with closing(Classifier.load(path, LABELS, threads=1)) as whole:
            wanted[whole.bundle.manifest.created] = whole.encode_image(pixels)[0], whole(image_files[0]).probabilities
    with subprocess.Popen([sys.executable, "-c", SWAP, *map(str, paths)], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        for _ in range(20):
            with closing(Classifier.load(paths[0], LABELS, threads=1)) as found:
                features, scores = wanted[found.bundle.manifest.created]
                np.testing.assert_array_equal(found.encode_image(pixels)[0], features)
                np.testing.assert_array_equal(found(image_files[0]).probabilities, scores)
        assert swapper.poll() is None
        swapper.kill()


@pytest.mark.stress
def test_a_load_leaves_no_descriptors(bundle: Path) -> None:
    def load() -> int:
        Classifier.load(bundle, LABELS, threads=1).close()
        return len(list(Path("/proc/self/fd").iterdir()))

    first = load()
    assert [load() for _ in range(10)] == [first] * 10


@pytest.mark.parametrize(
    ("device", "error", "words"),
    [("cuda", EngineError, r"attri\[gpu\]"), ("gpu", UsageError, "auto, cpu, cuda, tensorrt")],
)
def test_a_device_that_is_not_there(bundle: Path, device: Any, error: type[AttriError], words: str) -> None:
    import onnxruntime

    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(error, match=words):
        Classifier.load(bundle, device=device)


def test_without_onnx_runtime(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'attri\[onnx\]'"):
        Classifier.load(bundle)
