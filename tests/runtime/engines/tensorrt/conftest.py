from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attri.runtime.engines.tensorrt.cuda import Cuda

SUPPORT = Path(__file__).parents[3] / "support" / "tensorrt"
VERSIONS = ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")


@pytest.fixture(scope="session")
def cudart_file(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the library that stands in for libcudart")
    path = tmp_path_factory.mktemp("cudart") / "libcudart.so"
    source = SUPPORT / "cudart.c"
    subprocess.run(
        [compiler, "-O1", "-Wl,-Bsymbolic", "-Wall", "-Werror", "-shared", "-fPIC", "-o", path, source], check=True
    )
    return path


@pytest.fixture
def cudart(cudart_file, tmp_path):
    """The library that stands in for libcudart, in its first state; a test must leave nothing allocated in it."""
    copy = tmp_path / "libcudart.so"  # loaded from a path of its own, it has variables of its own
    shutil.copy(cudart_file, copy)
    library = ctypes.CDLL(str(copy))
    yield library

    def alive():
        return [library.fake_alive(0), library.fake_alive(1), library.fake_streams(), library.fake_graphs()]

    if any(alive()):  # what a traceback holds on to goes now
        gc.collect()
    assert alive() == [0, 0, 0, 0], "device memory, pinned memory, streams, graphs"


@pytest.fixture(params=VERSIONS)
def trt(request, cudart):
    """TensorRT of each generation."""
    from support.tensorrt.standin import bindings

    return bindings(request.param, cudart)


@pytest.fixture
def newest(cudart):
    """TensorRT of one generation, for what is alike in all."""
    from support.tensorrt.standin import bindings

    return bindings("10.3.0", cudart)


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch, request):
    """Seals are not made with the user's own secret."""
    if "gpu" not in request.keywords:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def copy(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def jetson(newest, cudart, monkeypatch):
    """This machine has TensorRT 10.3 and a GPU; the module, to change what it is."""
    monkeypatch.setitem(sys.modules, "tensorrt", newest)
    monkeypatch.setattr(Cuda, "open", classmethod(lambda cls: cls(cudart)))
    return newest


@pytest.fixture
def bare(monkeypatch):
    """This machine has no TensorRT."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
