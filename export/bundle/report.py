"""Write parity.json and report.html of a bundle: the parity check, the graphs, and the model card.

The page shows parity.json to a person, in one file without scripts and links. Neither file holds a time, so that the
same export writes the same bytes; the manifest says when a bundle was made.
"""

from __future__ import annotations

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
from attri.export.bundle.heat_maps import heat_maps, jpeg_text
from attri.export.bundle.model_card import Card, licence
from attri.export.graph.probe import Recorder
from attri.export.parity.images import ParityImages
from attri.export.parity.outputs import open_unfinished
from attri.export.parity.report import ParityReport, Stage
from attri.runtime._util.printable import json_text
from attri.runtime.bundle import EXPLAIN, Bundle, Manifest, file_entry
from attri.runtime.engines.base import Engine
from attri.runtime.preprocess import Preprocess
from attri.train.fitting import versions
from attri.train.report.report import render
from attri.train.training.run_folder import write_file

__all__ = ["JSON", "PAGE", "histogram", "write_report"]

JSON, PAGE = "parity.json", "report.html"
COUNTED = 100  # labels at most that operations are counted for (our choice)
MIN_BARS = 6  # of a histogram: fewer would be too wide to read
SMALLEST = -16  # decade of the smallest distance that is shown: float64 resolves no smaller one
SHOWN = 60  # labels named on the page


def write_report(
    bundle: Bundle,
    report: ParityReport,
    images: ParityImages,
    preprocess: Preprocess,
    card: Card,
    confidence: dict[str, Any],
) -> None:
    """Write both files beside the graphs.

    Args:
        bundle: complete but for these files and the manifest on disk.
        report: of the parity check.
        images: of the parity check.
        preprocess: of the model, for thumbnails.
        card: facts about the training.
        confidence: figures of `attri.export.score_calibration.calibrate_scores`.

    Raises:
        FailedError: they cannot be written.
    """
    facts = _describe(bundle, report, images, card, confidence)
    text = json_text(facts, indent=2, allow_nan=False) + "\n"
    write_file(bundle.path / JSON, text.encode())
    shown = {i: _thumbnail(images.files[i], preprocess) for i in {stage.worst_image for stage in report.stages}}
    explained = heat_maps(bundle, images) if (bundle.path / EXPLAIN).is_file() else []
    page = render(
        Path(__file__).with_name(PAGE),
        title=f"{facts['model']['name']} as a bundle, {facts['precision']}",
        summary=_summary(facts),
        facts=facts,
        stages=[
            row | {"histogram": histogram(stage), "thumbnail": shown[stage.worst_image]}
            for row, stage in zip(facts["stages"], report.stages, strict=True)
        ],
        explained=[each | {"name": _name_of(images.files[each["row"]])} for each in explained],
        shown=SHOWN,
    )
    write_file(bundle.path / PAGE, page.encode(errors="backslashreplace"))


def _describe(
    bundle: Bundle, report: ParityReport, images: ParityImages, card: Card, confidence: dict[str, Any]
) -> dict[str, Any]:
    """The content of parity.json."""
    manifest: Manifest = bundle.manifest
    others = ("onnx", "onnxscript", "onnxruntime")
    return {
        "model": manifest.model | {"licence": licence(manifest.model["name"], manifest.model["pretrained"])},
        "precision": manifest.precision,
        "opset": manifest.opset,
        "arithmetic": manifest.arithmetic,
        "logit_scale": manifest.logit_scale,
        "retrieval": manifest.retrieval | {"pool_size": bundle.prompt.entries},
        "image": manifest.image,
        "text": manifest.text | {"template": bundle.prompt.facts.template},
        "labels": bundle.prompt.facts.labels,
        "training_images": bundle.prompt.facts.training_images,
        "card": asdict(card),
        "images": [_name_of(file) for file in images.files],
        "compared": report.compared,
        "stages": [_describe_stage(stage, images) for stage in report.stages],
        "confidence": confidence,
        "graphs": _count_operations(bundle, images.pixels[:1]),
        "files": {file.name: file_entry(file) for file in sorted(bundle.path.iterdir())},
        "versions": versions() | {name: version(name) for name in others},
    }


def _describe_stage(stage: Stage, images: ParityImages) -> dict[str, Any]:
    worst = _name_of(images.files[stage.worst_image])
    return stage.summary() | {"worst_image": worst, "distances": stage.distances.tolist()}


def _count_operations(bundle: Bundle, pixels: NDArray[np.float32]) -> dict[str, Any]:
    """Sizes of all graphs, run on one image with up to COUNTED of the bundle's own labels."""
    recorders: list[Recorder] = []

    def record(engine: Engine) -> Recorder:
        recorders.append(Recorder(engine))
        return recorders[-1]

    classifier = open_unfinished(bundle, wrap=record)
    classifier.set_labels(classifier.labels[:COUNTED])
    classifier.encode_text(classifier.encode_image(pixels)[1])
    feeds = {name: recorder.feeds[0] for name, recorder in zip(bundle.graph_files, recorders, strict=True)}
    sizes: dict[str, Any] = {}
    for name, feed in feeds.items():
        files = dict.fromkeys((name, bundle.graph_name(name, tensorrt=True)))
        sizes |= {file: graph_stats.count(onnx.load(bundle.file(file)), feed) for file in files}
    return sizes


def _summary(facts: dict[str, Any]) -> str:
    """The model, and whether the bundle agrees with it, in two sentences."""
    gates = [stage["held"] for stage in facts["stages"] if stage["gate"] is not None]
    held = f"all {len(gates)} gates held" if all(gates) else f"{sum(gates)} of {len(gates)} gates held"
    hand = sum(stage["usual"] is not None and stage["usual"] != stage["gate"] for stage in facts["stages"])
    held += f", {hand} of them set by hand" if hand else ""
    model = facts["model"]
    return (
        f"AttriPrompt on {model['name']} ({model['pretrained']}), folded into static ONNX graphs. "
        f"Compared with the PyTorch model on {facts['compared']}: {held}."
    )


def _name_of(file: Path) -> str:
    """Folder and name of an image, without the rest of its path: the report leaves this machine."""
    return f"{file.parent.name}/{file.name}"


def _thumbnail(file: Path, preprocess: Preprocess) -> dict[str, Any]:
    """The image after preprocessing, as JPEG in base64."""
    return {"data": jpeg_text(Image.fromarray(preprocess.pixels(file))), "side": preprocess.size}


def histogram(stage: Stage) -> dict[str, Any]:
    """Count images by the decade of their distance from the reference.

    Returns:
        `bars`, each with `exponent` (None in the first: no distance) and `count`; `gate`, the position of the gate in
        bars from the left, or None.
    """
    distances = stage.distances
    some = distances[distances >= 10.0**SMALLEST]
    decades = np.floor(np.log10(some)).astype(int)
    allowed = None if stage.gate is None else stage.gate if stage.kind == "difference" else 1 - stage.gate
    gate = math.log10(allowed) if allowed and allowed >= 10.0**SMALLEST else None
    ends = [*decades.tolist(), *([] if gate is None else [math.floor(gate)])] or [0]
    exponents = range(min(*ends, max(ends) - MIN_BARS + 2), max(ends) + 1)
    bars = [{"exponent": None, "count": len(distances) - len(some)}]
    bars += [{"exponent": e, "count": int((decades == e).sum())} for e in exponents]
    return {"bars": bars, "gate": None if gate is None else 1 + gate - exponents[0]}
