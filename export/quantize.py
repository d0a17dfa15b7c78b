"""Int8 quantization of a bundle: calibrate, quantize for both runtimes, restore layers until the gates hold.

Each flavour starts with every layer in int8. While a gate does not hold on the parity images, the layer that drifts
most when it alone is int8 goes back to float32, in the graph whose stage missed. Sensitivities are measured on a few
calibration images, one session per layer, and only after a miss.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from attri.calibration import qdq
from attri.calibration.activation_ranges import (
    METHODS,
    CalibrationMethod,
    Feed,
    Range,
    Samples,
    collect_samples,
    label_tokens,
    measure_ranges,
)
from attri.calibration.images import find_calibration_images
from attri.calibration.qdq import FEATURES, QUANTIZED, S8S8, U8S8, Drift, Flavour, Layers
from attri.export.parity.compare import compare_outputs
from attri.export.parity.gates import Gates
from attri.export.parity.outputs import Outputs, open_unfinished, run_bundle, run_model
from attri.export.parity.report import ParityReport
from attri.export.progress import Progress
from attri.export.ranges import describe_ranges
from attri.runtime._util.wording import plural
from attri.runtime.bundle import SYMMETRIC, TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import FailedError, UsageError
from attri.train.model import AttriPrompt

__all__ = ["Calibration", "ParityCheck", "compare_int8", "quantize_bundle"]

GRAPHS = {U8S8: {VISION: VISION, TEXT: TEXT}, S8S8: SYMMETRIC}
SENSITIVITY_SAMPLES = 8  # images, and sets of pool entries; the ranking of layers does not change with more


@dataclass(frozen=True)
class Calibration:
    """The images and the method of int8 calibration."""

    data: Path | str  # folder of images
    method: CalibrationMethod = "minmax"
    target: float | None = None  # least cosine to search for; None is the gate's
    # Images of the parity check are left out: a gate would say little about images that int8 was fitted on.
    excluded: tuple[Path, ...] = ()

    def excluding(self, images: Sequence[Path]) -> Calibration:
        """The same without these images and their copies."""
        return dataclasses.replace(self, excluded=tuple(images))

    def check(self, gates: Gates) -> None:
        """Refuse what cannot be calibrated, before anything is traced.

        Raises:
            UsageError: the folder has no images, there is no such method, or the target is below the gate.
        """
        if self.method not in METHODS:
            raise UsageError(f"the calibration method is {self.method!r}: choose {', '.join(METHODS)}")
        if self.target is not None and self.target < gates.cosine:
            raise UsageError(
                f"`int8_target` {self.target:g} is below the gate, {gates.cosine:g}: leave it out, or lower that too,"
                " with `min_cosine`"
            )
        find_calibration_images(self.data, self.excluded)


@dataclass(frozen=True)
class Source:
    """A float32 graph with what quantization needs to know about it."""

    proto: onnx.ModelProto
    found: Layers  # that may be int8
    measured: dict[str, Range]  # range of each activation
    seen: dict[str, Range]  # its least and greatest value
    few: list[Feed]  # inputs to measure sensitivities on


@dataclass(frozen=True)
class ParityCheck:
    """Compares graphs with the model on the parity images; the model runs once."""

    bundle: Bundle
    pixels: NDArray[np.float32]  # [I, 3, S, S]
    reference: Outputs

    @classmethod
    def of(cls, model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32]) -> ParityCheck:
        """Run the model on the images."""
        facts = bundle.prompt.facts
        return cls(bundle, pixels, run_model(model, pixels, facts.labels, facts.template, bundle.prompt))

    def run(self, flavour: Flavour, gates: Gates) -> ParityReport:
        """Compare the bundle's graphs of that flavour."""
        files = GRAPHS[flavour]
        classifier = open_unfinished(self.bundle, (files[VISION], files[TEXT]), integers=flavour.integers)
        return compare_outputs(self.reference, run_bundle(classifier, self.pixels, self.reference.retrieved), gates)


def compare_int8(model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32], gates: Gates) -> ParityReport:
    """Compare the int8 graphs of a bundle, of both flavours, with the model on images [I, 3, S, S]."""
    parity = ParityCheck.of(model, bundle, pixels)
    return both_flavours({flavour: parity.run(flavour, gates) for flavour in GRAPHS})


def both_flavours(reports: Mapping[Flavour, ParityReport]) -> ParityReport:
    """One report of the stages of several, each with the name of its flavour."""
    stages = [
        dataclasses.replace(stage, arithmetic=flavour.name)
        for flavour, report in reports.items()
        for stage in report.stages
    ]
    first = next(iter(reports.values()))
    return ParityReport(stages, first.images, first.labels)


def quantize_bundle(
    model: AttriPrompt,
    bundle: Bundle,
    pixels: NDArray[np.float32],
    gates: Gates,
    calibration: Calibration,
    progress: Progress,
) -> tuple[ParityReport, dict[str, Any]]:
    """Replace the float32 graphs of an unfinished bundle by int8 graphs of both flavours.

    Args:
        model: the reference.
        bundle: holds the float32 graphs.
        pixels: of the parity images, [I, 3, S, S].
        gates: that both flavours must hold.
        calibration: what to fit on.
        progress: receives messages.

    Returns:
        The parity report of both flavours, and the figures of the quantization for the manifest.

    Raises:
        UsageError: no calibration images, or no such method.
        FailedError: no layer could stay in int8.
    """
    parity = ParityCheck.of(model, bundle, pixels)
    with _scratch(bundle.path) as folder:
        vision = OrtEngine(bundle.file(VISION), "cpu")
        tokens, inputs = label_tokens(bundle)
        preprocess = model.backbone.preprocess()
        samples = collect_samples(
            calibration.data, vision, preprocess, bundle.prompt, tokens, inputs, calibration.excluded
        )
        count = plural(len(samples.images), "calibration image")
        progress.say(f"int8: {count}, {plural(len(samples.retrieved), 'set')} of pool entries")
        sources = {
            name: measure_source(bundle.file(name), samples, calibration.method, folder, progress) for name in QUANTIZED
        }
        target = gates if calibration.target is None else dataclasses.replace(gates, cosine=calibration.target)
        reports: dict[Flavour, ParityReport] = {}
        graphs: dict[str, Any] = {}
        for flavour, files in GRAPHS.items():
            search = _Search(flavour, files, sources, parity, folder, progress)
            reports[flavour] = search.run(target)
            graphs |= search.summary()
    ranges = {
        name: describe_ranges(each.found, each.proto.graph, each.measured, each.seen) for name, each in sources.items()
    }
    summary = {"method": calibration.method, "images": len(samples.images), "graphs": graphs, "ranges": ranges}
    return both_flavours(reports), summary


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make a folder for temporary files inside the unfinished bundle, which is removed with it on any failure."""
    inner = folder / "scratch"
    inner.mkdir()
    yield inner
    shutil.rmtree(inner)


def measure_source(file: Path, samples: Samples, method: CalibrationMethod, folder: Path, progress: Progress) -> Source:
    """Find the layers of a float32 graph and measure the ranges of their inputs."""
    name = file.name
    proto = onnx.load(file)
    qdq.fold_weights(proto)
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    found = qdq.layers(proto.graph, FEATURES[name])
    feeds = samples.vision if name == VISION else samples.text
    tensors = qdq.activations(proto.graph, found)
    progress.say(f"int8: ranges of {plural(len(tensors), 'tensor')} of {name}, {method}")
    measured = measure_ranges(path, tensors, feeds(), method, folder)
    seen = measured if method == "minmax" else measure_ranges(path, tensors, feeds(), "minmax", folder)
    return Source(proto, found, measured, seen, list(feeds(SENSITIVITY_SAMPLES)))


class _Search:
    """Search of one flavour for the layers that must stay in float32."""

    def __init__(
        self,
        flavour: Flavour,
        files: dict[str, str],
        sources: dict[str, Source],
        parity: ParityCheck,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.flavour = flavour
        self.files = files
        self.sources = sources
        self.parity = parity
        self.folder = folder
        self.progress = progress
        self.found = {name: qdq.of_flavour(s.proto.graph, s.found, flavour) for name, s in sources.items()}
        self.full = {
            name: qdq.quantize(source.proto, self.found[name], source.measured, flavour)
            for name, source in sources.items()
        }
        self.kept: dict[str, list[str]] = {name: [] for name in sources}
        self.drifts: dict[str, dict[str, Drift]] = {}

    def run(self, gates: Gates) -> ParityReport:
        """Restore layers to float32 until all gates hold.

        Raises:
            FailedError: they do not, with one layer of the graph left in int8.
        """
        while True:
            for name in self.sources:
                self.write(name)
            report = self.parity.run(self.flavour, gates)
            missed = report.missed
            if missed is None:
                return report
            worst = self.worst(missed.id)
            if worst is None:
                raise FailedError(
                    f"int8 ({self.flavour.name}) does not reach {missed.gate:g} in {missed.name}: with a single layer"
                    f" in int8 it is {getattr(missed, missed.figure):.6f}; nothing was written: ask for less, or fp16"
                )
            name, layer = worst
            self.kept[name].append(layer)
            cost = 1 - qdq.int8_weights(self.sources[name].proto.graph, self.found[name], self.kept[name])
            self.progress.say(
                f"int8 {self.flavour.name}: {missed.name} is {getattr(missed, missed.figure):.6f} of {missed.gate:g};"
                f" {layer} of {name} goes back to float32, {cost:.0%} of its weights are now"
            )

    def write(self, name: str) -> None:
        """Write a graph with the kept layers in float32."""
        source, found = self.sources[name], self.found[name]
        back = [node for layer in self.kept[name] for node in found[layer]]
        proto = qdq.to_float32(self.full[name], source.proto, back)
        onnx.checker.check_model(proto, full_check=True)
        self.parity.bundle.file(self.files[name]).write_bytes(proto.SerializeToString(deterministic=True))

    def worst(self, stage: ParityStage) -> tuple[str, str] | None:
        """Find the most sensitive layer still in int8, of the graph of the stage; top-1 belongs to both graphs."""
        names = {
            ParityStage.IMAGE_FEATURES: [VISION],
            ParityStage.RETRIEVED: [VISION],
            ParityStage.TEXT_FEATURES: [TEXT],
        }.get(stage)
        left = []
        for name in names or [VISION, TEXT]:
            if len(self.kept[name]) + 1 == len(self.found[name]):
                continue  # a graph called int8 keeps at least one such layer
            for layer, drift in self.sensitivity(name).items():
                rank = (drift.flips, drift.cosine) if stage is ParityStage.RETRIEVED else (drift.cosine, drift.flips)
                if layer not in self.kept[name]:
                    left.append((rank, name, layer))
        return max(left)[1:] if left else None

    def sensitivity(self, name: str) -> dict[str, Drift]:
        """Measure the drift of each layer of a graph, once."""
        if name not in self.drifts:
            self.progress.say(f"int8 {self.flavour.name}: sensitivity of the {len(self.found[name])} layers of {name}")
            source = self.sources[name]
            self.drifts[name] = qdq.sensitivity(
                source.proto, self.full[name], self.found[name], source.few, self.folder, self.flavour
            )
        return self.drifts[name]

    def summary(self) -> dict[str, Any]:
        """Figures for the manifest, by file."""
        return {
            self.files[name]: {
                "flavour": self.flavour.name,
                "initializers": qdq.int8_initializers(onnx.load(self.parity.bundle.file(self.files[name]))),
                "float_layers": self.kept[name],
                "sensitivity": {layer: dataclasses.asdict(d) for layer, d in self.drifts.get(name, {}).items()},
            }
            for name, source in self.sources.items()
        }
