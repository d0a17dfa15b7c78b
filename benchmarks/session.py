"""Options of an ONNX Runtime session (threads, spinning, graph optimization) by their effect on a frame's latency.

    python -m benchmarks.session [--model ViT-B-32] [--labels 10] [--rounds 20]

A frame is the vision graph and then the text graph, each in a session of its own, as attri.runtime has them; float32 on
the CPU, the contestants taking turns. Threads may spin while they wait for the next operator ("on"), also while another
session works, or stop when a run is done ("stop"), or never spin ("off"). Processor time is that of all threads.
`OrtEngine` uses the marked setting. A second table has the vision graph and a product with 1,000 text features,
a cached frame that is, by NumPy's BLAS or by a loop of NumPy's own, which `attri.runtime.text.encoder` uses. All must
give the same features and scores, or the script fails. The tables are kept in benchmarks/session.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort
import torch

from attri.export.graph.trace import trace_text, trace_vision
from attri.export.onnx import save_graph
from attri.export.prompt import make_prompt
from attri.runtime.bundle import TEXT, VISION
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from benchmarks.common import CORES, in_turn, keep, names

LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
}
SPINNING = {
    "on": {},
    "stop": {"session.force_spinning_stop": "1"},
    "off": {"session.intra_op.allow_spinning": "0"},
}
USED = (CORES, "stop", "all")  # what attri.runtime.engines.onnxruntime asks for
SETTINGS = [
    USED,
    (CORES, "on", "all"),
    (CORES, "off", "all"),
    (1, "stop", "all"),
    (CORES, "stop", "extended"),
    (CORES, "stop", "basic"),
]
Name = TypeVar("Name")
REST = 0.5  # seconds, in which the threads of the contestant before have stopped spinning
AGREE = 1e-5  # largest difference of unit features and scores: float32 rounds by 6e-8, over 12 blocks of long sums
PRODUCTS: dict[str, Callable[..., np.ndarray]] = {
    "BLAS": np.matmul,
    "einsum (used)": lambda texts, image: np.einsum("cd,d->c", texts, image),
}


def session(path: Path, threads: int, spinning: str, level: str) -> ort.InferenceSession:
    """Open a graph in an ONNX Runtime session with these settings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = LEVELS[level]
    for key, value in SPINNING[spinning].items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def turn(frame: Callable[[], object]) -> list[tuple[float, float]]:
    """Milliseconds by the clock and by the processor of the second and the third of three frames.

    The first finds other contestants' weights in the processor's caches.
    """
    times = []
    for _ in range(3):
        wall, used = time.perf_counter(), time.process_time()
        frame()
        times.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - used)))
    return times[1:]


def compare(frames: Mapping[Name, Callable[[], np.ndarray]], rounds: int) -> dict[Name, np.ndarray]:
    """Times [2 rounds, 2] of each, in turn; raises AssertionError where they do not make the same."""
    first, *others = (frame() for frame in frames.values())
    for name, other in zip(list(frames)[1:], others, strict=True):
        assert np.abs(other - first).max() < AGREE, f"{name} is not like {next(iter(frames))}"
    found = in_turn({name: partial(turn, frame) for name, frame in frames.items()}, rounds, rest=REST)
    return {name: np.concatenate(times) for name, times in found.items()}


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = AttriPrompt(load_backbone(arguments.model), PromptConfig()).eval()
    prompt = make_prompt(model, ["label"], TEMPLATE)
    side = model.backbone.preprocess().size
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    tokens = encode_labels(Tokenizer(), names(arguments.labels), TEMPLATE)
    feed = tokens.feed(model.backbone.token_embedding.detach().numpy())
    with tempfile.TemporaryDirectory() as folder:
        vision, text = (Path(folder) / name for name in (VISION, TEXT))
        save_graph(trace_vision(model, "fp32", 18), vision)
        save_graph(trace_text(model, "fp32", 18), text)
        sessions = {setting: (session(vision, *setting), session(text, *setting)) for setting in SETTINGS}

    def frame(see: ort.InferenceSession, read: ort.InferenceSession) -> np.ndarray:
        _, retrieved, _ = see.run(None, {"pixels": pixels, **prompt.vision_inputs})
        return read.run(None, {"retrieved": retrieved, **prompt.text_inputs, **feed})[0]  # [1, C, D]

    def cached(see: ort.InferenceSession, product: Callable[..., np.ndarray]) -> np.ndarray:
        return product(texts, see.run(None, {"pixels": pixels, **prompt.vision_inputs})[0][0])

    texts = np.random.default_rng(0).standard_normal((1000, model.backbone.joint_width), np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    settings = compare({setting: partial(frame, *pair) for setting, pair in sessions.items()}, arguments.rounds)
    products = {name: partial(cached, sessions[USED][0], product) for name, product in PRODUCTS.items()}
    lines = [
        f"{arguments.model}, {arguments.labels} labels (ImageNet's names), ONNX Runtime {ort.__version__}, {CORES}"
        f" cores, {arguments.rounds} rounds of 2 frames in turn. Weights are random: time does not depend on them.",
        "",
        "| threads | spinning | graph level | median ms | slowest tenth ms | processor ms |",
        "|---|---|---|---|---|---|",
    ]
    for (threads, spinning, level), times in settings.items():
        wall, used = times.T
        mark = " (used)" * ((threads, spinning, level) == USED)
        figures = f"{np.median(wall):.1f} | {np.quantile(wall, 0.9):.1f} | {np.median(used):.1f}"
        lines.append(f"| {threads}{mark} | {spinning} | {level} | {figures} |")
    lines += ["", "| cached frame, 1,000 labels | median ms |", "|---|---|"]
    for name, times in compare(products, arguments.rounds).items():
        lines.append(f"| {name} | {np.median(times[:, 0]):.1f} |")
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
