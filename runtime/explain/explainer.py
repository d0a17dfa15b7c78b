"""The graph of explanations. It is loaded when somebody asks for the first explanation, and costs nothing before."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import EXPLAIN, Bundle
from attri.runtime.engines.base import require_finite
from attri.runtime.engines.onnxruntime import Device, OrtEngine
from attri.runtime.engines.verify import read_reference
from attri.runtime.errors import BundleError, ParityError, UsageError

_CLOSE = 1e-3  # of a cosine, between the sum of the parts and the model's image feature (our choice)


def require_graph(bundle: Path, files: Mapping[str, object]) -> None:
    """Check that a bundle has a graph of explanations.

    Args:
        bundle: Its folder.
        files: Of its manifest.

    Raises:
        UsageError: It has none.
    """
    if EXPLAIN not in files:
        raise UsageError(f"{bundle} has no {EXPLAIN} to explain with: export it again with attri-export --explain")


class ImageParts(NamedTuple):
    """What adds up to an image feature before it is made a unit vector.

    Attributes:
        patches: Contributions of patches float32 [h, w, D].
        rest: What belongs to no patch, float32 [D].
    """

    patches: NDArray[np.float32]
    rest: NDArray[np.float32]


class Explainer:
    """Runs the graph of explanations, by ONNX Runtime, whatever runs the other graphs.

    Args:
        bundle: Which may have one.
        device: As of `OrtEngine`.
        threads: Likewise.
    """

    def __init__(self, bundle: Bundle, device: Device = "cpu", threads: int | None = None) -> None:
        self._path, self._files = bundle.path, bundle.manifest.files
        self._device: Device = device
        self._threads = threads
        self._engine: OrtEngine | None = None
        self._loading = threading.Lock()

    def require(self) -> None:
        """Check that the bundle has a graph of explanations.

        Raises:
            UsageError: It has none.
        """
        require_graph(self._path, self._files)

    def __call__(self, pixels: NDArray[np.float32]) -> ImageParts:
        """Divide the feature of an image, pixels [3, S, S].

        Raises:
            UsageError: The bundle has no graph for it.
            BundleError: The bundle has been replaced since the classifier was loaded.
            EngineError: The engine failed, or is not there.
            ParityError: It does not agree with the model.
        """
        with self._loading:
            engine = self._engine = self._engine or self._load()
        patches, rest = engine.run({"pixels": pixels[None]})
        require_finite(patches, "patches", engine)
        return ImageParts(patches[0], rest[0])

    def _load(self) -> OrtEngine:
        self.require()
        with Bundle.open(self._path) as bundle:
            if bundle.manifest.files.get(EXPLAIN) != self._files[EXPLAIN]:
                raise BundleError(f"{self._path} has been replaced since it was loaded: start again")
            engine = OrtEngine(bundle.file(EXPLAIN), self._device, self._threads)
            check = read_reference(bundle, 1)
        patches, rest = engine.run({"pixels": check.pixels})
        whole = patches[0].sum((0, 1)) + rest[0]
        if not whole @ check.image_features[0] >= (1 - _CLOSE) * np.linalg.norm(whole):
            raise ParityError(f"{engine.description} does not agree with the PyTorch model: {EXPLAIN} is not used")
        return engine
