"""The prompt as an input of the graphs: the same bits as constants in them, the same time, and what a new one costs.

    python -m benchmarks.prompt [--models ViT-B-32,ViT-B-16] [--rounds 15]

Both graphs of a bundle are run as they are, with the prompt as an input, and with the same prompt turned into constants
of the file, as bundles had it before. They take turns in one process; outputs must be equal to the last bit. A frame is
the vision graph and the text graph with 100 labels; a cached frame is the vision graph alone. A swap is
`Classifier.set_prompt` with a file: read, verified, labels tokenized. The table is kept in benchmarks/prompt.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT, TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.verify import read_reference
from attri.runtime.images import list_images
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES
from benchmarks.common import CORES, in_turn, keep, names, timed

LABELS = 100
SWAPS = 10


def with_constants(graph: Path, prompt: dict[str, NDArray[Any]], target: Path) -> OrtEngine:
    """The same graph whose inputs of the prompt are initializers."""
    proto = onnx.load(graph)
    kept = [value for value in proto.graph.input if value.name not in prompt]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in prompt.items())
    target.write_bytes(proto.SerializeToString())
    return OrtEngine(target, "cpu")


def measure(name: str, folder: Path, rounds: int) -> str:
    """A row of the table for one model."""
    torch.manual_seed(0)
    model = AttriPrompt(load_backbone(name), PromptConfig()).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    labels, images = names(LABELS), list_images(IMAGES / "test")[:8]
    export_bundle(model, folder / "bundle", labels, images, ExportOptions(gates=Gates(0.9999, 0.99, 0.0)))
    bundle = Bundle.open(folder / "bundle")
    prompt, check = bundle.prompt, read_reference(bundle, 1)
    tokens = encode_labels(Tokenizer(), labels, TEMPLATE, bundle.manifest.text["context_length"])
    feeds = {
        VISION: {"pixels": check.pixels},
        TEXT: {"retrieved": check.retrieved, **tokens.feed(bundle.token_embedding())},
    }
    given = {VISION: prompt.vision_inputs, TEXT: prompt.text_inputs}
    inputs = {graph: OrtEngine(bundle.graph(graph), "cpu") for graph in feeds}
    constants = {
        graph: with_constants(bundle.graph(graph), given[graph], folder / f"constant-{graph}") for graph in feeds
    }
    for graph, feed in feeds.items():
        pairs = zip(inputs[graph].run({**feed, **given[graph]}), constants[graph].run(feed), strict=True)
        assert all(np.array_equal(ours, theirs) for ours, theirs in pairs), f"{name}: {graph} gives other bits"

    def cached(engines: dict[str, OrtEngine], more: dict[str, dict[str, Any]]) -> None:
        engines[VISION].run({**feeds[VISION], **more.get(VISION, {})})

    def frame(engines: dict[str, OrtEngine], more: dict[str, dict[str, Any]]) -> None:
        cached(engines, more)
        engines[TEXT].run({**feeds[TEXT], **more.get(TEXT, {})})

    ratios = []
    for run in (frame, cached):
        sides = {
            "input": lambda run=run: timed(lambda: run(inputs, given), 1),
            "constant": lambda run=run: timed(lambda: run(constants, {}), 1),
        }
        times = {side: np.array(values) for side, values in in_turn(sides, rounds).items()}
        ratios.append((np.median(times["input"] / times["constant"]), np.median(times["input"])))
    seconds = swap(folder / "bundle", labels)
    sizes = [sum(file.stat().st_size for file in (folder / "bundle").iterdir()), prompt_size(folder / "bundle")]
    cells = [f"{ratio:.3f} ({ms:.1f} ms)" for ratio, ms in ratios]
    return (
        f"| {name} | {sizes[0] / 2**20:.0f} MB | {sizes[1] / 2**20:.2f} MB | equal | {' | '.join(cells)} |"
        f" {1000 * seconds:.0f} ms |"
    )


def prompt_size(bundle: Path) -> int:
    """Bytes of the prompt file."""
    return (bundle / PROMPT).stat().st_size


def swap(bundle: Path, labels: list[str]) -> float:
    """Median seconds of `set_prompt` with a file, for these labels."""
    times = []
    with Classifier.load(bundle, labels, device="cpu") as classifier:
        for _ in range(SWAPS):
            started = time.perf_counter()
            classifier.set_prompt(bundle / PROMPT)
            times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="pocket,ViT-B-32,ViT-B-16")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    lines = [
        f"Float32, {LABELS} labels (ImageNet's names), {CORES} cores, {arguments.rounds} rounds in turn. Weights but"
        " pocket's are random: time does not depend on them.",
        "",
        "| model | bundle | of it the prompt | outputs | frame, input to constant | cached frame | swap |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measure(name, Path(folder), arguments.rounds))
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
