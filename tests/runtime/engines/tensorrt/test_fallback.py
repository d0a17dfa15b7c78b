"""Which engine is chosen where TensorRT is missing, broken, too old or not wanted, and what is said of it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
from support.manifests import set_manifest

from attri.runtime.bundle import MANIFEST, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.select import EngineOptions, open_engines
from attri.runtime.engines.tensorrt.load import check_version
from attri.runtime.errors import EngineError, MissingExtra, UsageError


def test_without_tensorrt_auto_says_why_it_takes_onnx_runtime(copy, bare):
    vision, _ = open_engines(Bundle.open(copy), EngineOptions(threads=1))
    assert (
        vision.description
        == f"no TensorRT here (tensorrt is not installed): ONNX Runtime {onnxruntime.__version__} on cpu"
    )


def test_without_a_gpu_auto_says_why_it_takes_onnx_runtime(copy, jetson, cudart):
    cudart.fake_device(b"", 0, 0, 0)
    vision, _ = open_engines(Bundle.open(copy), EngineOptions(threads=1))
    reason = r"CUDA failed in cudaGetDeviceCount: no CUDA-capable device is detected \(cudaErrorNoDevice\)"
    assert re.match(rf"no TensorRT here \({reason}\): ONNX Runtime", vision.description)


class Broken:
    """A finder of modules: the bindings are here, and a library that they load is not."""

    def __init__(self, error):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == "tensorrt":
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libnvdla_compiler.so: cannot open shared object file: No such file or directory"),
        ModuleNotFoundError("No module named 'tensorrt_bindings'", name="tensorrt_bindings"),
        OSError("libcudart.so.12: cannot open shared object file"),
        AttributeError("module 'numpy' has no attribute 'bool'"),
    ],
    ids=repr,
)
def test_a_tensorrt_that_is_broken_is_not_called_missing(copy, monkeypatch, error):
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    told = f"TensorRT is here but does not load: {error}"
    with pytest.raises(EngineError, match=re.escape(told)):
        open_engines(Bundle.open(copy), EngineOptions("tensorrt"))
    assert open_engines(Bundle.open(copy), EngineOptions(threads=1))[0].description.startswith(
        f"no TensorRT here ({told}): "
    )


def test_a_jetson_without_the_bindings_is_told_how_it_gets_the_systems(copy, bare, monkeypatch):
    monkeypatch.setattr("attri.runtime.engines.tensorrt.load.is_tegra", lambda: True)
    with pytest.raises(EngineError, match=r"apt install python3-libnvinfer, .* --system-site-packages$"):
        open_engines(Bundle.open(copy), EngineOptions("tensorrt"))


def test_check_version_refuses_jetpack_5_by_name(newest):
    newest.__version__ = "8.5.2.2"
    with pytest.raises(EngineError, match=r"TensorRT 8.5.2.2 \(JetPack 5 or older\) is not supported"):
        check_version(newest)
    newest.__version__ = "8.6.0"
    check_version(newest)


def test_jetpack_5_is_named(copy, jetson):
    jetson.__version__ = "8.5.2"
    with pytest.raises(EngineError, match="JetPack 5"):
        open_engines(Bundle.open(copy), EngineOptions("tensorrt"))
    assert (
        "(TensorRT 8.5.2 (JetPack 5 or older)"
        in open_engines(Bundle.open(copy), EngineOptions(threads=1))[0].description
    )


@pytest.mark.parametrize(
    "request_",
    [
        EngineOptions("tensorrt"),
        EngineOptions(rebuild_engines=True),
        EngineOptions(engine_dir=Path("x")),
        EngineOptions("tensorrt", "cuda"),
    ],
    ids=str,
)
def test_tensorrt_that_was_asked_for_is_not_replaced(copy, bare, request_):
    with pytest.raises(MissingExtra, match=r"tensorrt is not installed: pip install 'attri\[trt\]'"):
        open_engines(Bundle.open(copy), request_)


@pytest.mark.parametrize(
    "request_",
    [
        EngineOptions("tensorrt", "cpu"),
        EngineOptions(device="cpu", rebuild_engines=True),
        EngineOptions("onnxruntime", rebuild_engines=True),
        EngineOptions("onnxruntime", engine_dir=Path("x")),
        EngineOptions(device="tensorrt"),
        EngineOptions("trt"),  # type: ignore[arg-type]  # refused
        EngineOptions(device="gpu"),  # type: ignore[arg-type]  # refused
    ],
    ids=str,
)
def test_requests_that_contradict_themselves(copy, jetson, request_):
    with pytest.raises(UsageError):
        open_engines(Bundle.open(copy), request_)
    assert jetson.builds == 0


def test_the_tensorrt_provider_gets_the_graphs_of_tensorrt(copy, monkeypatch):
    manifest = json.loads((copy / MANIFEST).read_text())
    for name in ("vision", "text"):
        shutil.copy(copy / f"{name}.onnx", copy / f"{name}.s8.onnx")
        manifest["files"][f"{name}.s8.onnx"] = manifest["files"][f"{name}.onnx"]
    set_manifest(copy, files=manifest["files"], precision="int8")
    opened = []

    class Engine:
        description, device = "", "cpu"  # which nothing is asked of

        def __init__(self, path, device, threads):
            opened.append(path.resolve().name)  # the path of what is held says nothing

    monkeypatch.setattr("attri.runtime.engines.select.OrtEngine", Engine)
    for device in ("tensorrt", "cuda"):
        open_engines(Bundle.open(copy), EngineOptions("onnxruntime", device))
    assert opened == ["vision.s8.onnx", "text.s8.onnx", "vision.onnx", "text.onnx"]


@pytest.mark.parametrize(
    "request_", [EngineOptions("onnxruntime", "cpu", 1), EngineOptions(device="cpu", threads=1)], ids=str
)
def test_onnx_runtime_that_was_asked_for_is_what_runs(copy, jetson, request_):
    assert open_engines(Bundle.open(copy), request_)[0].description.startswith("ONNX Runtime")
    assert jetson.builds == 0


class FakeSession:
    """An ONNX Runtime with other providers than this machine's."""

    starts = True
    asked = ()

    def __init__(self, path, options, providers, **_):
        FakeSession.asked = providers
        self.providers = providers if self.starts else ["CPUExecutionProvider"]

    def get_providers(self):
        return [*self.providers, "CPUExecutionProvider"]

    def disable_fallback(self):
        pass


@pytest.mark.parametrize(
    ("device", "starts", "description"),
    [
        ("auto", True, "ONNX Runtime {} on cuda"),
        ("auto", False, "CUDA does not start here: ONNX Runtime {} on cpu"),
        ("cuda", True, "ONNX Runtime {} on cuda"),
        ("tensorrt", True, "ONNX Runtime {} on tensorrt"),
        ("cpu", True, "ONNX Runtime {} on cpu"),
        ("cuda", False, None),
        ("tensorrt", False, None),
    ],
)
def test_providers_of_onnx_runtime(monkeypatch, tmp_path, device, starts, description):
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "starts", starts)
    if description is None:
        with pytest.raises(EngineError, match=f"`device` {device}: .* does not start here"):
            OrtEngine(tmp_path, device)
        return
    engine = OrtEngine(tmp_path, device)
    assert engine.description == description.format(onnxruntime.__version__)
    assert engine.limits == {}
    wanted = {"auto": ["cuda"], "tensorrt": ["tensorrt", "cuda"]}.get(device, [device])
    if starts:
        assert [name.lower().removesuffix("executionprovider") for name in FakeSession.asked] == wanted
