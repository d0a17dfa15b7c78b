"""Signature of a graph: names, dtypes and dimensions of its inputs and outputs, as the manifest keeps them.

TensorRT does not name the dimensions of outputs, and a device has no onnx package to read them from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attri.runtime.bundle import Bundle
from attri.runtime.errors import BundleError


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: as in the graph.
        dtype: in NumPy's words, such as "float32".
        dims: the extent of each dimension where it is fixed, else the name of the dimension, such as "B".
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of a graph, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def dims(self) -> set[str]:
        """Names of all dynamic dimensions of the inputs."""
        return {dim for tensor in self.inputs for dim in tensor.dims if isinstance(dim, str)}

    def to_dict(self) -> dict[str, Any]:
        """As the manifest keeps it under `graphs`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> GraphSignature:
        """From an entry of the manifest's `graphs`.

        Raises:
            KeyError, TypeError: it is none.
        """
        inputs, outputs = (
            tuple(TensorSpec(each["name"], each["dtype"], tuple(each["dims"])) for each in raw[side])
            for side in ("inputs", "outputs")
        )
        return cls(inputs, outputs)


def read_signature(bundle: Bundle, file: str) -> GraphSignature:
    """Signature of a graph of the bundle, from its manifest.

    Args:
        bundle: it may be unfinished.
        file: name of the ONNX file, as `Bundle.graph_name` gives it.

    Raises:
        BundleError: the manifest has none of this file.
    """
    try:
        return GraphSignature.from_dict(bundle.manifest.graphs[file])
    except (KeyError, TypeError) as error:
        raise BundleError(f"{bundle.path} has no signature of {file} in its manifest: export it again") from error
