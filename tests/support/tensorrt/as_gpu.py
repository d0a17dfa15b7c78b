"""A pytest plugin: `find_tensorrt` finds the stand-in, so that the tests for a device are themselves tested."""

from __future__ import annotations

import ctypes
import os
import sys

from attri.runtime.engines.tensorrt.cuda import Cuda


def pytest_configure() -> None:
    from support.tensorrt.standin import bindings

    library = ctypes.CDLL(os.environ["ATTRI_CUDART"])
    sys.modules["tensorrt"] = bindings("10.3.0", library)
    Cuda.open = classmethod(lambda cls: cls(library))  # type: ignore[assignment]  # the stand-in
