"""ONNX Runtime's session options: threads, spinning and graph level, by what they do to a frame.

    python benchmarks/session.py [--model ViT-B-32] [--labels 10] [--rounds 20]

A frame is the vision graph and then the text graph, each in a session of its own, as attri.runtime has them; float32 on
the CPU, the contestants taking turns. Threads may spin while they wait for the next operator ("on"), also while another
session works, or stop when a run is done ("stop"), or never spin ("off"). Processor time is that of all threads.
`attri.runtime.ort` uses the marked setting. A second table has the vision graph and a product with 1,000 text features,
a cached frame that is, by NumPy's BLAS or by a loop of NumPy's own, which `attri.runtime.textencoder` uses. Weights are
random: time does not depend on them. The tables are kept in benchmarks/session.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from attri.export.onnx import save, trace_text, trace_vision
from attri.runtime.bundle import TEXT, VISION
from attri.runtime.prompts import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.backbone import load_backbone
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt

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
CORES = len(os.sched_getaffinity(0))
USED = (CORES, "stop", "all")  # what attri.runtime.ort asks for
SETTINGS = [
    USED,
    (CORES, "on", "all"),
    (CORES, "off", "all"),
    (1, "stop", "all"),
    (CORES, "stop", "extended"),
    (CORES, "stop", "basic"),
]
Setting = tuple[int, str, str]
PRODUCTS = {"BLAS": np.matmul, "einsum (used)": lambda texts, image: np.einsum("cd,d->c", texts, image)}


def session(path: Path, threads: int, spinning: str, level: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = LEVELS[level]
    for key, value in SPINNING[spinning].items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def products(vision: ort.InferenceSession, pixels: np.ndarray, rounds: int) -> list[str]:
    image = vision.run(None, {"pixels": pixels})[0][0]
    texts = np.random.default_rng(0).standard_normal((1000, len(image)), np.float32)
    lines = ["| cached frame, 1,000 labels | median ms |", "|---|---|"]
    for name, product in PRODUCTS.items():
        times = []
        for _ in range(3 * rounds):
            start = time.perf_counter()
            product(texts, vision.run(None, {"pixels": pixels})[0][0])
            times.append(time.perf_counter() - start)
        lines.append(f"| {name} | {1000 * np.median(times[2:]):.1f} |")
        time.sleep(0.5)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    model = AttriPrompt(load_backbone(arguments.model), PromptConfig()).eval()
    side = model.backbone.preprocess().size
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    labels = [f"thing number {number}" for number in range(arguments.labels)]
    tokens = encode_labels(Tokenizer(), labels, TEMPLATE)
    feed = tokens.feed(model.backbone.token_embedding.detach().numpy())
    with tempfile.TemporaryDirectory() as folder:
        vision, text = (Path(folder) / name for name in (VISION, TEXT))
        save(trace_vision(model, "fp32", 18), vision)
        save(trace_text(model, "fp32", 18), text)
        contestants = {setting: (session(vision, *setting), session(text, *setting)) for setting in SETTINGS}
    times: dict[Setting, list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(arguments.rounds):
        for setting, (see, read) in contestants.items():
            time.sleep(0.1)  # threads of the contestant before still spin
            for frame in range(3):
                wall, used = time.perf_counter(), time.process_time()
                _, retrieved, _ = see.run(None, {"pixels": pixels})
                read.run(None, {"retrieved": retrieved, **feed})
                if frame:  # the first finds other contestants' weights in the processor's caches
                    times[setting].append((time.perf_counter() - wall, time.process_time() - used))
    lines = [
        f"{arguments.model}, {arguments.labels} labels, ONNX Runtime {ort.__version__}, CPU ({platform.machine()}),"
        f" {CORES} cores, {arguments.rounds} rounds in turn.",
        "",
        "| threads | spinning | graph level | median ms | slowest tenth ms | processor ms |",
        "|---|---|---|---|---|---|",
    ]
    for setting, measured in times.items():
        wall, used = (1000 * np.array(part) for part in zip(*measured, strict=True))
        threads, spinning, level = setting
        mark = " (used)" * (setting == USED)
        figures = f"{np.median(wall):.1f} | {np.quantile(wall, 0.9):.1f} | {np.median(used):.1f}"
        lines.append(f"| {threads}{mark} | {spinning} | {level} | {figures} |")
    lines += ["", *products(contestants[USED][0], pixels, arguments.rounds)]
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
