"""Write the members of the real bindings: python list_members.py tensorrt.so VERSION > members/VERSION.json

VERSION's `tensorrt.so` comes out of the wheel of NVIDIA's bindings (tensorrt-bindings 8.6.1, tensorrt-cu12-bindings
10.3.0, tensorrt-cu13-bindings 10.16.1.11 and 11.4.0.106, for Python 3.11). It imports without TensorRT where
LD_LIBRARY_PATH has empty libraries in the place of libnvinfer, libnvonnxparser, libnvinfer_plugin (and, for 8.6,
libnvparsers) that define the dozen functions which `nm -D --undefined-only` names.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types


def public(thing: object) -> list[str]:
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def main(path: str, version: str) -> None:
    sys.modules["tensorrt_bindings"] = types.ModuleType("tensorrt_bindings")
    spec = importlib.util.spec_from_file_location("tensorrt_bindings.tensorrt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds = {name: getattr(module, name) for name in public(module) if isinstance(getattr(module, name), type)}
    enums = {n: {k: int(v) for k, v in t.__members__.items()} for n, t in kinds.items() if hasattr(t, "__members__")}
    classes = {name: public(kind) for name, kind in kinds.items() if name not in enums}
    print(json.dumps({"version": version, "classes": classes, "enums": enums}))


if __name__ == "__main__":
    main(*sys.argv[1:])
