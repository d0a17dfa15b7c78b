"""int8 against float32: speed of ViT-B-32 on a CPU, and accuracy of a trained pocket prompt.

    python -m benchmarks.int8 RUN [--labels 100] [--threads 2] [--rounds 30]

RUN is a prompt that attri-train has made of the embedded images. ViT-B-32 has random weights here, for time does not
depend on them; its features and retrieved entries must agree within the gates of int8, or the script fails. (Its top-1
is not asked for: random classes are all alike.) The contestants take turns in one process; printed are medians, and
medians of the ratios within a round. The pocket prompt may lose one point at most on test images of its own style;
those of another style are shown beside. The tables are kept in benchmarks/int8.md.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from attri.calibration.activation_ranges import label_tokens
from attri.calibration.qdq import S8S8, U8S8
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.progress import ConsoleProgress
from attri.export.quantize import GRAPHS, Calibration
from attri.runtime import Classifier
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.images import list_images
from attri.runtime.labels import class_words
from attri.runtime.text.cache import TextCache
from attri.train.config import PromptConfig
from attri.train.fitting import load_model
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES, OTHER_STYLE
from attri.train.training.checkpoint import load_run
from benchmarks.common import in_turn, keep, names, timed

LEAST_SPEED = 2.0


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sections = [speed(Path(folder), arguments), accuracy(Path(folder), arguments.run)]
    keep(Path(__file__), __doc__, "\n\n".join(sections))


def export_both(model: AttriPrompt, folder: Path, labels: list[str], images: list[Path], gates: Gates | None) -> None:
    """folder/fp32 and folder/int8; raises where int8 does not hold its gates."""
    export_bundle(model, folder / "fp32", labels, images)
    options = ExportOptions(precision="int8", gates=gates, calibration=Calibration(IMAGES))
    with ConsoleProgress() as progress:
        progress.say(export_bundle(model, folder / "int8", labels, images, options, progress).table())


def speed(folder: Path, arguments: argparse.Namespace) -> str:
    """Time both graphs in both precisions, and return the table."""
    torch.manual_seed(0)
    model = AttriPrompt(load_backbone("ViT-B-32"), PromptConfig()).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    labels = names(arguments.labels)
    images = list_images(IMAGES / "test")[::11]
    gates = Gates.of("int8")
    export_both(model, folder / "speed", labels, images, Gates(gates.cosine, gates.retrieved, 0.0))

    bundles = {"fp32": folder / "speed" / "fp32", "int8": folder / "speed" / "int8"}
    engines = {
        (kind, name): OrtEngine(path / name, "cpu", arguments.threads)
        for kind, path in bundles.items()
        for name in (VISION, TEXT)
    }
    pixels = model.backbone.preprocess()(images[0])[None]
    opened = Bundle.open(bundles["fp32"])
    retrieved = engines["fp32", VISION].run({"pixels": pixels, **opened.prompt.vision_inputs})[1]
    tokens, inputs = label_tokens(opened)
    feeds = {
        VISION: {"pixels": pixels, **opened.prompt.vision_inputs},
        TEXT: {
            "retrieved": retrieved,
            **opened.prompt.text_inputs,
            **inputs(tokens),
        },
    }
    turns = {key: partial(timed, partial(engine.run, feeds[key[1]]), before=1) for key, engine in engines.items()}
    times: dict[tuple[str, str], NDArray[np.float64]] = {
        key: np.array(found) for key, found in in_turn(turns, arguments.rounds).items()
    }
    lines = [
        f"ViT-B-32, {len(labels)} labels (ImageNet's names), ONNX Runtime {ort.__version__}, {arguments.threads}"
        f" threads, batch 1, {arguments.rounds} rounds in turn. Weights are random: time does not depend on them.",
        "",
        "| | float32 ms | int8 ms | times faster |",
        "|---|---|---|---|",
    ]
    for name, what in ((VISION, "vision with retrieval"), (TEXT, "folded text")):
        before, after = times["fp32", name], times["int8", name]
        ratio = float(np.median(before / after))
        lines.append(f"| {what} | {np.median(before):.1f} | {np.median(after):.1f} | {ratio:.1f} |")
        assert ratio >= LEAST_SPEED, f"int8 is only {ratio:.2f} times faster in {what}"
    sizes = {kind: sum(file.stat().st_size for file in path.glob("*.onnx")) / 2**20 for kind, path in bundles.items()}
    return "\n".join([*lines, f"| graphs, MB (int8: both flavours) | {sizes['fp32']:.0f} | {sizes['int8']:.0f} | |"])


def accuracy(folder: Path, run: Path) -> str:
    """Score test images in float32 and in both int8 flavours, and return the table."""
    trained = load_run(run)
    model = load_model(trained)
    export_both(model, folder / "accuracy", trained.classes, list_images(IMAGES / "test"), None)
    sides = {"float32": Classifier.load(folder / "accuracy" / "fp32", device="cpu")}
    bundle = Bundle.open(folder / "accuracy" / "int8")
    for flavour in (U8S8, S8S8):
        vision, text = (
            OrtEngine(bundle.file(GRAPHS[flavour][name]), "cpu", integers=flavour.integers) for name in (VISION, TEXT)
        )
        sides[f"int8 {flavour.name}"] = Classifier(bundle, vision, text, trained.classes, TextCache(64 << 20))
    lines = [f"| pocket, trained, held-out images | {' | '.join(sides)} |", "|---" * (1 + len(sides)) + "|"]
    for what, root in (("own style", IMAGES / "test"), ("other style", OTHER_STYLE)):
        files = [file for file in list_images(root) if class_words(file.parent.name) in trained.classes]
        said = {name: np.array([side(file).label for file in files]) for name, side in sides.items()}
        truth = np.array([class_words(file.parent.name) for file in files])
        right = {name: 100 * np.mean(labels == truth) for name, labels in said.items()}
        if root == IMAGES / "test":
            assert all(right["float32"] - value <= 1.0 for value in right.values()), f"over a point is lost: {right}"
        cells = [f"{right[name]:.1f} ({100 * np.mean(said[name] == said['float32']):.1f})" for name in sides]
        lines.append(f"| {what}, {len(files)} | {' | '.join(cells)} |")
    lines += ["", "Percent right (in brackets: percent of images that get the label that float32 gives them)."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
