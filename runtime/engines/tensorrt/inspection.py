"""Which number types a built TensorRT engine computes with, read from its inspector.

A weakly typed build (TensorRT 8.6) may quietly keep float32 where half or int8 was asked for.
"""

from __future__ import annotations

import json
import re
from typing import Any

from attri.runtime.bundle import Precision
from attri.runtime.errors import EngineError

# An fp16 engine must keep this part of the graph's share of half tensors. Our choice: tensors that were fused away are
# not shown, and a part of the graph stays float32.
_HALF_KEPT = 0.5
_PATTERNS = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {"half": r"half|fp16", "int8": r"int8", "float32": r"float|fp32"}.items()
}


def type_shares(information: str) -> dict[str, float] | None:
    """Shares of half, int8 and float32 among the typed tensors of an engine.

    Types read "Half" or "Row major linear FP16 format", depending on the kind of layer. TensorRT 8.6 fuses a whole
    transformer into one Myelin layer, `{ForeignNode[...]}`, and shows no types inside it: the tensors that are left
    would say nothing about the engine.

    Args:
        information: JSON of the engine inspector, as `TrtEngine.inspect` returns it.

    Returns:
        Share by type; None if the inspector does not show the types.
    """
    layers = _layers(information)
    if any(_is_fused(layer) for layer in layers):
        return None
    formats = [tensor.get("Format/Datatype", "") for layer in layers for tensor in layer.get("Outputs", [])]
    counts = {kind: sum(bool(pattern.search(each)) for each in formats) for kind, pattern in _PATTERNS.items()}
    total = sum(counts.values())
    return {kind: count / total for kind, count in counts.items()} if total else None


def check_shares(shares: dict[str, float] | None, precision: Precision, name: str, asked: float) -> None:
    """Check that an engine is in the precision that was asked for.

    Args:
        shares: from `type_shares`. None passes: the engine's agreement with the model has to be enough.
        precision: "fp32", "fp16" or "int8".
        name: of the graph, for messages.
        asked: share of half tensors in the exported graph.

    Raises:
        EngineError: an fp16 engine has too few half tensors, or an int8 engine has no int8 tensor.
    """
    if shares is None:
        return
    if precision == "fp16" and shares["half"] < _HALF_KEPT * asked:
        raise EngineError(
            f"{shares['half']:.0%} of the tensors of {name} are half in the engine and {asked:.0%} in the graph:"
            " TensorRT did not do as asked, the engine is not used"
        )
    if precision == "int8" and not shares["int8"]:
        raise EngineError(f"nothing of {name} is int8 in the engine: it is not used")


def _layers(information: str) -> list[dict[str, Any]]:
    """Layers with details; [] if the inspector shows only names, or nothing."""
    try:
        return [layer for layer in json.loads(information)["Layers"] if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError):
        return []


def _is_fused(layer: dict[str, Any]) -> bool:
    return layer.get("LayerType") == "Myelin" or "ForeignNode" in layer.get("Name", "")
