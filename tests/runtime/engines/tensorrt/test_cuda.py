"""The ctypes layer against a library with the same symbols, and against the real one where there is no GPU."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from attri.runtime.engines.tensorrt import cuda as layer
from attri.runtime.engines.tensorrt.cuda import SYMBOLS, Buffer, Cuda, Device, Stream
from attri.runtime.errors import EngineError


@pytest.fixture
def cuda(cudart):
    return Cuda(cudart)


@pytest.fixture
def stream(cuda):
    stream = Stream(cuda)
    yield stream
    stream.close()


@pytest.mark.parametrize(
    ("kernel", "file", "found"),
    [
        ("6.8.0-45-generic", False, "aarch64"),
        ("5.15.136-tegra", False, "aarch64 Tegra"),
        ("6.8.0-45-generic", True, "aarch64 Tegra"),
    ],
)
def test_a_jetson_is_known_by_its_kernel_or_its_release_file(monkeypatch, kernel, file, found):
    monkeypatch.setattr(layer.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(layer.platform, "release", lambda: kernel)
    monkeypatch.setattr(layer.Path, "exists", lambda self: file)
    assert layer.system() == found


def test_what_the_gpu_is(cuda, cudart):
    assert cuda.device() == Device("Orin", "8.7", 4 << 30, 8 << 30)
    cudart.fake_device(b"NVIDIA Thor", 1, 11, 0)
    assert cuda.device() == Device("NVIDIA Thor", "11.0", 4 << 30, 8 << 30)


def test_bytes_go_up_and_down_in_the_order_of_the_stream(cuda, stream):
    up, down = Buffer(cuda, 64), Buffer(cuda, 64)
    sent = up.view(np.int16, (4, 8))
    sent[...] = np.arange(32).reshape(4, 8)
    up.upload(64, stream)
    up.download(32, stream)
    assert up.view(np.uint8, (64,)).nbytes == 64
    sent[...] = 0  # nothing has been copied yet: a stream that has not been synchronized has done nothing
    sent[2:] = 7
    stream.synchronize()
    np.testing.assert_equal(up.view(np.int16, (4, 8)), np.vstack([np.zeros((2, 8)), np.full((2, 8), 7)]))
    up.close()
    down.close()
    up.close()  # twice is once


def test_a_captured_stream_does_nothing_until_the_graph_is_launched(cuda, stream):
    buffer = Buffer(cuda, 4)
    value = buffer.view(np.int32, (1,))
    value[0] = 1
    buffer.upload(4, stream)
    stream.synchronize()
    value[0] = 2
    with stream.capture() as capture:
        buffer.download(4, stream)
    stream.synchronize()
    assert value[0] == 2
    for _ in range(2):
        value[0] = 3
        capture.graph.launch(stream)
        stream.synchronize()
        assert value[0] == 1
    capture.graph.close()
    capture.graph.close()
    buffer.close()


def test_what_is_not_permitted_while_capturing(cuda, stream):
    with (
        pytest.raises(EngineError, match=r"operation not permitted when stream is capturing \(cudaErrorStreamCaptureU"),
        stream.capture(),
    ):
        stream.synchronize()
    stream.synchronize()
    with pytest.raises(ZeroDivisionError), stream.capture():
        raise ZeroDivisionError
    stream.synchronize()


@pytest.mark.parametrize("name", sorted(SYMBOLS.keys() - {"cudaFree", "cudaFreeHost"}))
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (2, "out of memory (cudaErrorMemoryAllocation)"),
        (35, "CUDA driver version is insufficient for CUDA runtime version (cudaErrorInsufficientDriver)"),
        (12345, "unrecognized error code (unrecognized error code)"),
    ],
)
def test_every_failed_call_names_itself_and_cudas_reason(cuda, cudart, monkeypatch, name, code, text):
    monkeypatch.setattr(cudart, name, lambda *arguments: code)
    with pytest.raises(EngineError) as error:
        cuda.call(name)
    assert str(error.value) == f"CUDA failed in {name}: {text}"


def test_half_a_buffer_is_given_back(cuda, cudart):
    cudart.fake_fail(b"cudaHostAlloc", 2, 0)
    with pytest.raises(EngineError, match="cudaHostAlloc"):
        Buffer(cuda, 64)
    assert cudart.fake_alive(0) == 0


def test_no_gpu(cuda, cudart):
    cudart.fake_device(b"", 0, 0, 0)
    with pytest.raises(EngineError, match=r"no CUDA-capable device is detected \(cudaErrorNoDevice\)"):
        cuda.device()


def test_no_library(monkeypatch):
    monkeypatch.setattr(layer, "LIBRARIES", ("libcudart.so.0",))
    monkeypatch.setattr(layer, "PREFIXES", ())
    monkeypatch.setattr(layer, "find_spec", lambda name: None)  # nor in pip's packages
    with pytest.raises(EngineError, match="libcudart"):
        Cuda.open()


def test_a_library_without_a_symbol_is_named(tmp_path, cudart_file):
    source, path = tmp_path / "old.c", tmp_path / "libcudart.so.9"
    source.write_text(
        'const char *cudaGetErrorName(int e){return "";}\nconst char *cudaGetErrorString(int e){return "";}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True)
    with pytest.raises(EngineError, match=r"libcudart.so.9 has no cudaGetDeviceCount: CUDA 11.4 to 13 are known"):
        Cuda(ctypes.CDLL(str(path)))


def test_the_real_library_has_every_symbol_and_says_that_there_is_no_gpu():
    """pip's torch brings a real libcudart; on a machine without a GPU its answer is an error of its own words."""
    try:
        cuda = Cuda.open()
    except EngineError:
        pytest.skip("no libcudart is installed")
    if Path("/dev/nvidiactl").exists() or Path("/dev/nvmap").exists():
        assert cuda.device().total > 0
        return
    with pytest.raises(EngineError, match=r"CUDA failed in cudaGetDeviceCount: .+ \(cudaError[A-Za-z]+\)"):
        cuda.device()
