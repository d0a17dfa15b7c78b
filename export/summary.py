"""The summary of a finished export that attri-export prints on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attri.export.training_images import size_text
from attri.runtime._util.wording import plural
from attri.runtime.bundle import PROMPT, read_manifest
from attri.runtime.prompt import Prompt

__all__ = ["prompt_lines", "rejection_text", "summary_lines", "temperature_text"]


def summary_lines(bundle: Path) -> Iterator[str]:
    """Describe a bundle on disk: its size, its arithmetic and its scores."""
    manifest = read_manifest(bundle)
    size = sum(file.stat().st_size for file in bundle.iterdir()) / 2**20
    yield f"bundle  {bundle}  {manifest.precision}  {size:.1f} MB"
    for name, graph in manifest.arithmetic.get("graphs", {}).items():
        yield f"{manifest.precision}    {name}  {_arithmetic_text(graph)}"
    yield from prompt_lines(bundle / PROMPT)
    confidence = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))["confidence"]
    yield f"scores  {temperature_text(confidence)}; {rejection_text(confidence)}"
    if confidence["independent"] is not None:
        yield f"scores  {independent_text(confidence['independent'])}"


def prompt_lines(file: Path) -> Iterator[str]:
    """Describe what a prompt file on disk keeps of its training images."""
    if (kept := Prompt.read(file).training_images) is not None:
        yield f"kept    {size_text(kept)}"


def _arithmetic_text(graph: dict[str, Any]) -> str:
    """Describe how much of a graph is fp16 or int8, from its figures in the manifest."""
    if "flavour" not in graph:
        peak = f"greatest magnitude {graph['peak']:.0f} of 65504"
        return f"{graph['initializers']:.1%} of its initializers, {graph['tensors']:.1%} of its tensors, {peak}"
    kept = f", float32 left in {', '.join(graph['float_layers'])}" if graph["float_layers"] else ""
    return f"{graph['flavour']}, {graph['initializers']:.1%} of its initializers{kept}"


def temperature_text(confidence: dict[str, Any]) -> str:
    """Describe the temperature; errors on the images that it was fitted on are told from those on others.

    Args:
        confidence: figures of `attri.export.score_calibration.calibrate_scores`.
    """
    if confidence["validation"] is None or confidence["why"]:
        return f"not calibrated: {confidence['why']}"
    base = confidence["base"]
    text = f"temperature {confidence['temperature']:.3f} from {base['images']} {confidence['validation']}"
    if not confidence["checked"]:
        text += ", perhaps images of the run's training or test: its data cannot be read"
    text += f", calibration error {base['before']['ece']:.1%} without it, {base['after']['ece']:.1%} with it on these"
    text += f" images, which it was fitted on, {confidence['held_out']:.1%} cross-validated"
    if "novel" in confidence:
        before, after = (confidence["novel"][side]["ece"] for side in ("before", "after"))
        text += f"; on other classes {before:.1%} without, {after:.1%} with it"
    return text + (" (worse, kept since --calibrate was given)" if confidence["worse"] else "")


def independent_text(independent: dict[str, Any]) -> str:
    """Describe independent scores."""
    figures = independent["figures"]
    own = f", with own thresholds of {plural(figures['own'], 'label')}" if figures["own"] else ""
    return f"independent (--independent): precision {figures['precision']:.1%}, recall {figures['recall']:.1%}{own}"


def rejection_text(confidence: dict[str, Any]) -> str:
    """Describe the rejection threshold."""
    if confidence["threshold"] is None:
        return "nothing rejected"
    rejection = confidence["rejection"]
    price = (
        f", {rejection['rejected']:.1%} of {rejection['known']} images of the labels are"
        if "known" in rejection
        else ""
    )
    return f"rejected below {confidence['threshold']:.4f}{price}"
