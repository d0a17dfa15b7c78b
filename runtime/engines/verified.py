"""Providers of ONNX Runtime beside its CPU are held against the model before they are used, once on each machine.

A provider compiles the graph with code of its own, and may compute something else, down to NaN: scores of such a graph
look like scores. What agreed is kept by machine, driver, version and graph; what did not is tried again at each start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from attri.runtime._util.system import read_text, recall, remember
from attri.runtime.bundle import REFERENCE, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.verify import compare

_LOGGER = logging.getLogger("attri")
_KEPT = "parity"
DRIVER = Path("/proc/driver/nvidia/version")


def require_agreement(bundle: Bundle, engines: Mapping[str, OrtEngine]) -> None:
    """Run the graphs on the bundle's reference images, unless they agreed here before or run on the CPU.

    Args:
        bundle: Of the graphs.
        engines: By names of their graphs.

    Raises:
        ParityError: A gate does not hold; NaN never does.
        EngineError: A graph does not run.
        BundleError: The bundle has no reference images or gates.
    """
    for name, engine in engines.items():
        if engine.device == "cpu":
            continue
        graph = bundle.graph_name(name, tensorrt=engine.device == "tensorrt")
        files = bundle.manifest.files
        key = {
            "graph": files[graph]["sha256"],
            "reference": files[REFERENCE]["sha256"],
            "gates": bundle.manifest.parity,
            "engine": engine.description,
            "driver": read_text(DRIVER),
        }
        if recall(_KEPT, key) is None:
            figures = compare(bundle, name, engine)
            least = min(figures.values())
            _LOGGER.info("%s agrees with the PyTorch model on %s: %.6f or more", engine.description, graph, least)
            remember(_KEPT, key, {stage.value: value for stage, value in figures.items()})
