"""parity.json and report.html: what was compared, what came out, and what the model is, travelling with the bundle.

The page is parity.json to read, and the model card: one file without scripts and links. Neither holds a time, so that
the same export writes the same bytes; when a bundle was made stands in its manifest.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from attri.export.bundle import graph_stats
from attri.export.bundle.model_card import Card, licence
from attri.export.graph.probe import Recorder
from attri.export.parity.compare import Report, Stage, classifier_of
from attri.export.parity.images import Pictures
from attri.runtime._util.printable import json_text
from attri.runtime.bundle import SYMMETRIC, TEXT, VISION, Bundle, Manifest, file_entry
from attri.runtime.engines.base import Engine
from attri.runtime.preprocess import Preprocess
from attri.train.fit import versions
from attri.train.report.report import render
from attri.train.training.run_folder import write_file

JSON, PAGE = "parity.json", "report.html"
COUNTED = 100  # labels that operations are counted for, or all where there are fewer (our choice)
BARS = 6  # at least: fewer would be too wide to read
SMALLEST = -16  # decade of a distance below which it is shown as none: float64 does not tell
SHOWN = 60  # labels named on the page


def write_report(
    bundle: Bundle, report: Report, pictures: Pictures, preprocess: Preprocess, card: Card, confidence: dict[str, Any]
) -> None:
    """Write both files beside the graphs. bundle: complete but for them and the manifest on disk.

    Raises:
        FailedError: they cannot be written.
    """
    facts = describe(bundle, report, pictures, card, confidence)
    text = json_text(facts, indent=2, allow_nan=False) + "\n"
    write_file(bundle.path / JSON, text.encode())
    shown = {i: thumbnail(pictures.files[i], preprocess) for i in {stage.worst_picture for stage in report.stages}}
    page = render(
        Path(__file__).with_name(PAGE),
        title=f"{facts['model']['name']} as a bundle, {facts['precision']}",
        summary=summary(facts),
        facts=facts,
        stages=[
            row | {"histogram": histogram(stage), "thumbnail": shown[stage.worst_picture]}
            for row, stage in zip(facts["stages"], report.stages, strict=True)
        ],
        shown=SHOWN,
    )
    write_file(bundle.path / PAGE, page.encode(errors="backslashreplace"))


def describe(
    bundle: Bundle, report: Report, pictures: Pictures, card: Card, confidence: dict[str, Any]
) -> dict[str, Any]:
    """What stands in parity.json."""
    manifest: Manifest = bundle.manifest
    others = ("onnx", "onnxscript", "onnxruntime")
    return {
        "model": manifest.model | {"licence": licence(manifest.model["pretrained"])},
        "precision": manifest.precision,
        "opset": manifest.opset,
        "arithmetic": manifest.arithmetic,
        "logit_scale": manifest.logit_scale,
        "retrieval": manifest.retrieval,
        "image": manifest.image,
        "text": manifest.text,
        "labels": manifest.labels,
        "card": asdict(card),
        "pictures": [name_of(file) for file in pictures.files],
        "compared": report.compared,
        "stages": [describe_stage(stage, pictures) for stage in report.stages],
        "confidence": confidence,
        "graphs": count_operations(bundle, pictures.pixels[:1]),
        "files": {file.name: file_entry(file) for file in sorted(bundle.path.iterdir())},
        "versions": versions() | {name: version(name) for name in others},
    }


def describe_stage(stage: Stage, pictures: Pictures) -> dict[str, Any]:
    worst = name_of(pictures.files[stage.worst_picture])
    return stage.summary() | {"worst_picture": worst, "distances": stage.distances.tolist()}


def count_operations(bundle: Bundle, pixels: NDArray[np.float32]) -> dict[str, Any]:
    """Of every graph, run on one picture with the bundle's own labels, or COUNTED of them."""
    recorders: list[Recorder] = []

    def record(engine: Engine) -> Recorder:
        recorders.append(Recorder(engine))
        return recorders[-1]

    classifier = classifier_of(bundle, wrap=record)
    classifier.set_labels(classifier.labels[:COUNTED])
    classifier.encode_text(classifier.encode_image(pixels)[1])
    feeds = {name: recorder.feeds[0] for name, recorder in zip((VISION, TEXT), recorders, strict=True)}
    twins = SYMMETRIC if bundle.manifest.precision == "int8" else {}
    files = {name: (name, twins[name]) if twins else (name,) for name in feeds}
    return {
        file: graph_stats.count(onnx.load(bundle.file(file)), feeds[name]) for name in files for file in files[name]
    }


def summary(facts: dict[str, Any]) -> str:
    """What this is and whether it agrees, in a sentence or two."""
    gates = [stage["held"] for stage in facts["stages"] if stage["gate"] is not None]
    held = f"all {len(gates)} gates held" if all(gates) else f"{sum(gates)} of {len(gates)} gates held"
    hand = sum(stage["usual"] is not None and stage["usual"] != stage["gate"] for stage in facts["stages"])
    held += f", {hand} of them set by hand" if hand else ""
    model = facts["model"]
    return (
        f"AttriPrompt on {model['name']} ({model['pretrained']}), folded into static ONNX graphs. "
        f"Compared with the PyTorch model on {facts['compared']}: {held}."
    )


def name_of(file: Path) -> str:
    """Enough of a path to find a picture again, and no more: the report leaves this machine."""
    return f"{file.parent.name}/{file.name}"


def thumbnail(file: Path, preprocess: Preprocess) -> dict[str, Any]:
    """The picture as the model sees it, as JPEG in base64."""
    pixels = preprocess.pixels(file)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return {"data": base64.b64encode(stream.getvalue()).decode(), "side": preprocess.size}


def histogram(stage: Stage) -> dict[str, Any]:
    """Pictures by the decade of their distance from the reference; the first bar holds those without any.

    Returns:
        bars    "exponent" (None: no distance) and "count"
        gate    the place of the gate in bars from the left, or None
    """
    distances = stage.distances
    some = distances[distances >= 10.0**SMALLEST]
    decades = np.floor(np.log10(some)).astype(int)
    allowed = None if stage.gate is None else stage.gate if stage.kind == "difference" else 1 - stage.gate
    gate = math.log10(allowed) if allowed and allowed >= 10.0**SMALLEST else None
    ends = [*decades.tolist(), *([] if gate is None else [math.floor(gate)])] or [0]
    exponents = range(min(*ends, max(ends) - BARS + 2), max(ends) + 1)
    bars = [{"exponent": None, "count": len(distances) - len(some)}]
    bars += [{"exponent": e, "count": int((decades == e).sum())} for e in exponents]
    return {"bars": bars, "gate": None if gate is None else 1 + gate - exponents[0]}
