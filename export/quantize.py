"""From float32 graphs to int8 ones that pass the gates: calibrate, quantize for both runtimes, put back what hurts.

Each flavour starts with every layer in int8. While a gate does not hold on the parity pictures, the layer that drifts
most when it alone is int8 goes back to float32, in the graph whose stage missed. Sensitivities are measured on a few
calibration pictures, one session per layer, and only when something missed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from attri.calibration import qdq
from attri.calibration.activation_ranges import METHODS, Feed, Samples, collect_samples, label_tokens, measure_ranges
from attri.calibration.images import find_calibration_images
from attri.calibration.qdq import FEATURES, S8S8, U8S8, Drift, Flavour, Layers
from attri.export.parity.compare import Gates, Report, Stages, classifier_of, judge, run_bundle, run_model
from attri.runtime._util.wording import plural
from attri.runtime.bundle import SYMMETRIC, TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import FailedError, UsageError
from attri.train.model import AttriPrompt

FILES = {U8S8: {VISION: VISION, TEXT: TEXT}, S8S8: SYMMETRIC}
SENSITIVITY_SAMPLES = 8  # pictures, and sets of entries; a layer's rank does not hang on more
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """What int8 is fitted on.

    target   least cosine to search for; None is the gate's
    judged   pictures of the parity check, which are left out: a gate says little of what int8 was fitted on
    """

    data: Path
    method: str = METHODS[0]
    target: float | None = None
    judged: tuple[Path, ...] = ()

    def judged_on(self, pictures: list[Path]) -> Calibration:
        return dataclasses.replace(self, judged=tuple(pictures))

    def check(self, gates: Gates) -> None:
        """Raises UsageError where the folder has no pictures, there is no such method, or the target is no target.

        Before anything is traced."""
        if self.method not in METHODS:
            raise UsageError(f"the calibration method is {self.method!r}: choose {', '.join(METHODS)}")
        if self.target is not None and self.target < gates.cosine:
            raise UsageError(
                f"--int8-target {self.target:g} is below the gate, {gates.cosine:g}: leave it out, or lower that too,"
                " with --min-cosine"
            )
        find_calibration_images(self.data, self.judged)


@dataclass(frozen=True)
class Source:
    """A float32 graph, what of it may be int8, and over what those tensors range."""

    proto: onnx.ModelProto
    found: Layers
    measured: dict[str, tuple[float, float]]
    few: list[Feed]


@dataclass(frozen=True)
class Judge:
    """Holds graphs against the model on the parity pictures."""

    bundle: Bundle
    pixels: NDArray[np.float32]
    reference: Stages

    @classmethod
    def of(cls, model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32]) -> Judge:
        manifest = bundle.manifest
        return cls(bundle, pixels, run_model(model, pixels, manifest.labels, manifest.text["template"]))

    def __call__(self, flavour: Flavour, gates: Gates) -> Report:
        """The bundle's graphs of that flavour."""
        files = FILES[flavour]
        classifier = classifier_of(self.bundle, (files[VISION], files[TEXT]), integers=flavour.integers)
        return judge(self.reference, run_bundle(classifier, self.pixels, self.reference.retrieved), gates)


def quantize_bundle(
    model: AttriPrompt,
    bundle: Bundle,
    pixels: NDArray[np.float32],
    gates: Gates,
    calibration: Calibration,
    tell: Tell,
) -> tuple[Report, dict[str, Any]]:
    """Put int8 graphs of both flavours in the place of the float32 graphs of an unfinished bundle.

    Returns:
        the parity report of both, not yet checked, and what the manifest keeps of how they came about.

    Raises:
        UsageError: no calibration pictures, or no such method.
        FailedError: no layer could stay in int8.
    """
    judge_graphs = Judge.of(model, bundle, pixels)
    with scratch(bundle.path) as folder:
        vision = OrtEngine(bundle.file(VISION), "cpu")
        words, embedding = label_tokens(bundle), bundle.token_embedding()
        preprocess = model.backbone.preprocess()
        samples = collect_samples(calibration.data, vision, preprocess, words, embedding, calibration.judged)
        tell(f"int8: {plural(len(samples.images), 'calibration picture')}, {len(samples.retrieved)} sets of entries")
        sources = {name: measure(bundle.file(name), samples, calibration.method, folder, tell) for name in FEATURES}
        reports: list[Report] = []
        graphs: dict[str, Any] = {}
        for flavour, files in FILES.items():
            search = Search(flavour, files, sources, judge_graphs, folder, tell)
            reports.append(search.run(wanted(gates, calibration.target)))
            graphs |= search.summary()
    stages = [
        dataclasses.replace(stage, name=f"{stage.name}, {flavour.name}")
        for flavour, report in zip(FILES, reports, strict=True)
        for stage in report.stages
    ]
    summary = {"method": calibration.method, "pictures": len(samples.images), "graphs": graphs}
    return Report(stages, reports[0].pictures, reports[0].labels), summary


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for the quantizer's files, inside the unfinished bundle: whatever happens they go together."""
    inner = folder / "scratch"
    inner.mkdir()
    yield inner
    shutil.rmtree(inner)


def wanted(gates: Gates, target: float | None) -> Gates:
    return gates if target is None else dataclasses.replace(gates, cosine=target)


def measure(file: Path, samples: Samples, method: str, folder: Path, tell: Tell) -> Source:
    """Find the layers of a float32 graph and what their inputs range over."""
    name = file.name
    proto = onnx.load(file)
    qdq.fold_weights(proto)
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    found = qdq.layers(proto.graph, FEATURES[name])
    feeds = samples.vision if name == VISION else samples.text
    tensors = qdq.activations(proto.graph, found)
    tell(f"int8: ranges of {plural(len(tensors), 'tensor')} of {name}, {method}")
    measured = measure_ranges(path, tensors, feeds(), method, folder)
    return Source(proto, found, measured, list(feeds(SENSITIVITY_SAMPLES)))


class Search:
    """One flavour: which layers are left in float32, and why."""

    def __init__(
        self,
        flavour: Flavour,
        files: dict[str, str],
        sources: dict[str, Source],
        judge_graphs: Judge,
        folder: Path,
        tell: Tell,
    ) -> None:
        self.flavour, self.files, self.sources = flavour, files, sources
        self.judge, self.folder, self.tell = judge_graphs, folder, tell
        self.found = {name: qdq.of_flavour(s.proto.graph, s.found, flavour) for name, s in sources.items()}
        self.full = {
            name: qdq.quantize(source.proto, self.found[name], source.measured, flavour)
            for name, source in sources.items()
        }
        self.kept: dict[str, list[str]] = {name: [] for name in sources}
        self.drifts: dict[str, dict[str, Drift]] = {}

    def run(self, gates: Gates) -> Report:
        """Put layers back until all gates hold.

        Raises:
            FailedError: they do not, with one layer of the graph left in int8.
        """
        while True:
            for name in self.sources:
                self.write(name)
            report = self.judge(self.flavour, gates)
            missed = next((stage for stage in report.stages if not stage.held), None)
            if missed is None:
                return report
            worst = self.worst(missed.name)
            if worst is None:
                raise FailedError(
                    f"int8 ({self.flavour.name}) does not reach {missed.gate:g} in {missed.name}: with a single layer"
                    f" in int8 it is {getattr(missed, missed.figure):.6f}; nothing was written: ask for less, or --fp16"
                )
            name, layer = worst
            self.kept[name].append(layer)
            cost = 1 - qdq.int8_weights(self.sources[name].proto.graph, self.found[name], self.kept[name])
            self.tell(
                f"int8 {self.flavour.name}: {missed.name} is {getattr(missed, missed.figure):.6f} of {missed.gate:g};"
                f" {layer} of {name} goes back to float32, {cost:.0%} of its weights are now"
            )

    def write(self, name: str) -> None:
        source, found = self.sources[name], self.found[name]
        back = [node for layer in self.kept[name] for node in found[layer]]
        proto = qdq.to_float32(self.full[name], source.proto, back)
        onnx.checker.check_model(proto, full_check=True)
        self.judge.bundle.file(self.files[name]).write_bytes(proto.SerializeToString(deterministic=True))

    def worst(self, stage: str) -> tuple[str, str] | None:
        """The most sensitive layer still in int8, of the graph that the stage belongs to; top-1 belongs to both."""
        names = {"image features": [VISION], "retrieved entries": [VISION], "text features": [TEXT]}.get(stage)
        left = []
        for name in names or [VISION, TEXT]:
            if len(self.kept[name]) + 1 == len(self.found[name]):
                continue  # a graph called int8 keeps at least one such layer
            for layer, drift in self.sensitivity(name).items():
                rank = (drift.flips, drift.cosine) if stage == "retrieved entries" else (drift.cosine, drift.flips)
                if layer not in self.kept[name]:
                    left.append((rank, name, layer))
        return max(left)[1:] if left else None

    def sensitivity(self, name: str) -> dict[str, Drift]:
        if name not in self.drifts:
            self.tell(f"int8 {self.flavour.name}: sensitivity of the {len(self.found[name])} layers of {name}")
            source = self.sources[name]
            self.drifts[name] = qdq.sensitivity(
                source.proto, self.full[name], self.found[name], source.few, self.folder, self.flavour
            )
        return self.drifts[name]

    def summary(self) -> dict[str, Any]:
        """What the manifest keeps, by file."""
        return {
            self.files[name]: {
                "flavour": self.flavour.name,
                "initializers": qdq.int8_initializers(onnx.load(self.judge.bundle.file(self.files[name]))),
                "float_layers": self.kept[name],
                "sensitivity": {layer: dataclasses.asdict(d) for layer, d in self.drifts.get(name, {}).items()},
            }
            for name, source in self.sources.items()
        }
