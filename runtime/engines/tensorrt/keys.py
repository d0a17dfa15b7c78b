"""What a cached engine depends on: the machine, the graph and the build options. Together they are its cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

AMPERE = (8, 0)  # compute capability from which on hardware-compatible engines run


@dataclass(frozen=True)
class Machine:
    """The GPU and the software that an engine is bound to.

    Attributes:
        tensorrt: version, "10.3.0".
        gpu: name, "Orin".
        capability: compute capability, "8.7".
        system: platform of TensorRT's libraries, from `attri.runtime.engines.tensorrt.cuda.system`.
    """

    tensorrt: str
    gpu: str
    capability: str
    system: str

    def __str__(self) -> str:
        detail = f"compute capability {self.capability}, {self.system or 'unknown system'}"
        return f"TensorRT {self.tensorrt} on {self.gpu} ({detail})"


@dataclass(frozen=True)
class EngineKey:
    """Cache key: everything that an engine depends on.

    Attributes:
        name: of the graph's file, without its suffix.
        graph: sha256 of the ONNX file.
        machine: that the engine was built on.
        precision: "fp32", "fp16" or "int8".
        ranges: least, most usual and greatest extent of each dynamic dimension.
        hardware_compatible: it also runs on other GPUs, from Ampere on.
        version_compatible: it also runs with later TensorRT versions of the same major.
    """

    name: str
    graph: str
    machine: Machine
    precision: str
    ranges: Mapping[str, tuple[int, int, int]]
    hardware_compatible: bool = False
    version_compatible: bool = False

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, for file names."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()[:16]


def is_compatible(key: EngineKey, machine: Machine) -> bool:
    """Whether TensorRT would run an engine on a machine, as far as its key tells."""
    return (
        _is_compatible_version(key, machine)
        and _is_compatible_gpu(key, machine)
        and key.machine.system == machine.system
    )


def _is_compatible_version(key: EngineKey, machine: Machine) -> bool:
    built, here = _numbers(key.machine.tensorrt), _numbers(machine.tensorrt)
    return built == here or (key.version_compatible and built[0] == here[0] and built <= here)


def _is_compatible_gpu(key: EngineKey, machine: Machine) -> bool:
    if (key.machine.gpu, key.machine.capability) == (machine.gpu, machine.capability):
        return True
    return key.hardware_compatible and _numbers(machine.capability) >= AMPERE


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that is hashed and sealed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
