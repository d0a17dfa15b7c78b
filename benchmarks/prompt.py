"""The prompt as an input of the graphs: the same bits as constants in them, the same time, and what a new one costs.

    python -m benchmarks.prompt [--models pocket,ViT-B-32,ViT-B-16] [--precisions fp32,int8] [--rounds 15]

Both graphs of a bundle are run as they are, with the prompt as an input, and with the same prompt turned into constants
of the file, as bundles had it before. They take turns in one process, and outputs are compared bit by bit. A frame is
the vision graph and the text graph with 100 labels; a cached frame is the vision graph alone. What is noise is measured
beside it: the graph with constants against itself, loaded a second time. A swap is `Classifier.set_prompt` with a file:
read, verified, labels tokenized. int8 is what ONNX Runtime runs, U8S8, calibrated on the embedded images. The table is
kept in benchmarks/prompt.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT, TEXT, VISION, Bundle, Precision
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.verify import read_reference
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from benchmarks.common import CORES, in_turn, names, timed
from benchmarks.models import WEIGHTS, command_line, export_random, keep_table

LABELS = 100
SWAPS = 10
CACHED_ROUNDS = 6  # as many of a cached frame for each of a frame: shorter ones are noisier
Engines = dict[str, OrtEngine]  # by graph
Inputs = dict[str, dict[str, NDArray[Any]]]  # likewise


def with_constants(graph: Path, prompt: dict[str, NDArray[Any]], target: Path) -> OrtEngine:
    """The same graph whose inputs of the prompt are initializers."""
    proto = onnx.load(graph)
    kept = [value for value in proto.graph.input if value.name not in prompt]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in prompt.items())
    target.write_bytes(proto.SerializeToString())
    return OrtEngine(target, "cpu")


def measure(path: Path, labels: list[str], rounds: int, scratch: Path) -> list[str]:
    """Compare and time a bundle.

    Args:
        path: Of the bundle.
        labels: Of a frame.
        rounds: How many.
        scratch: A folder for the graphs with constants.

    Returns:
        Cells of the table: bundle, prompt, outputs, frame, cached frame, the same graph twice, swap.
    """
    bundle = Bundle.open(path)
    prompt, check = bundle.prompt, read_reference(bundle, 1)
    tokens = encode_labels(Tokenizer(), labels, prompt.facts.template, bundle.manifest.text["context_length"])
    feeds: Inputs = {
        VISION: {"pixels": check.pixels},
        TEXT: {"retrieved": check.retrieved, **tokens.feed(bundle.token_embedding())},
    }
    given: Inputs = {VISION: prompt.vision_inputs, TEXT: prompt.text_inputs}
    inputs = {graph: OrtEngine(bundle.graph(graph), "cpu") for graph in feeds}
    constants = {
        graph: with_constants(bundle.graph(graph), given[graph], scratch / f"constant-{graph}") for graph in feeds
    }
    again = {VISION: OrtEngine(scratch / f"constant-{VISION}", "cpu")}
    outputs = compared(inputs, constants, feeds, given)

    def cached(engines: Engines, more: Inputs) -> None:
        engines[VISION].run({**feeds[VISION], **more.get(VISION, {})})

    def frame(engines: Engines, more: Inputs) -> None:
        cached(engines, more)
        engines[TEXT].run({**feeds[TEXT], **more.get(TEXT, {})})

    whole = turns({"input": lambda: frame(inputs, given), "constant": lambda: frame(constants, {})}, rounds)
    part = turns(
        {
            "input": lambda: cached(inputs, given),
            "constant": lambda: cached(constants, {}),
            "again": lambda: cached(again, {}),
        },
        CACHED_ROUNDS * rounds,
    )
    cells = [outputs]
    for times in (whole, part):
        cells.append(f"{ratio(times, 'input'):.3f} ({np.median(times['input']):.1f} ms)")
    cells.append(f"{ratio(part, 'again'):.3f}")
    sizes = [f"{sum(file.stat().st_size for file in path.iterdir()) / 2**20:.0f} MB"]
    sizes.append(f"{(path / PROMPT).stat().st_size / 2**20:.2f} MB")
    return [*sizes, *cells, f"{1000 * swap(path, labels):.0f} ms"]


def turns(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each side in each round, the sides in turn."""
    timers = {side: partial(timed, run, 1) for side, run in sides.items()}
    return {side: np.array(values) for side, values in in_turn(timers, rounds).items()}


def ratio(times: dict[str, NDArray[np.float64]], side: str) -> float:
    """Median over rounds of a side's time to that of the graph with constants."""
    return float(np.median(times[side] / times["constant"]))


def compared(inputs: Engines, constants: Engines, feeds: Inputs, given: Inputs) -> str:
    """Say whether both give the same bits, or else by how much they differ at most."""
    differences = [
        float(np.abs(ours.astype(np.float64) - theirs).max())
        for graph, feed in feeds.items()
        for ours, theirs in zip(inputs[graph].run({**feed, **given[graph]}), constants[graph].run(feed), strict=True)
        if not np.array_equal(ours, theirs)
    ]
    return f"differ by {max(differences):.1e}" if differences else "equal"


def swap(bundle: Path, labels: list[str]) -> float:
    """Median seconds of `set_prompt` with a file, for these labels."""
    times = []
    with Classifier.load(bundle, labels, device="cpu") as classifier:
        for _ in range(SWAPS):
            started = time.perf_counter()
            classifier.set_prompt(bundle / PROMPT)
            times.append(time.perf_counter() - started)
    return float(np.median(times))


def rows(name: str, folder: Path, precisions: list[Precision], rounds: int) -> list[str]:
    """Rows of the table for one model."""
    labels, found = names(LABELS), []
    for precision in precisions:
        export_random(name, folder / precision, labels, precision)
        cells = measure(folder / precision, labels, rounds, folder)
        found.append(f"| {name} | {precision} | {' | '.join(cells)} |")
    return found


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = command_line(__doc__)
    parser.add_argument("--precisions", default="fp32,int8")
    arguments = parser.parse_args()
    about = f"{LABELS} labels (ImageNet's names), {CORES} cores, {arguments.rounds} rounds in turn. {WEIGHTS}"
    columns = "model, precision, bundle, its prompt, outputs, frame to constant, cached frame, constant twice, swap"
    precisions = cast("list[Precision]", arguments.precisions.split(","))
    of_model = partial(rows, precisions=precisions, rounds=arguments.rounds)
    keep_table(__file__, __doc__, about, columns.split(", "), arguments.models, of_model)


if __name__ == "__main__":
    main()
