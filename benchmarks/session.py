"""ONNX Runtime's session options: threads, spinning and graph level, by what they do to a frame.

    python benchmarks/session.py [--model ViT-B-32] [--rounds 40]

The vision graph, a picture at a time, the contestants taking turns, on the CPU in float32. Processor time is that of
all threads: where a worker spins while it waits, it is more than the work takes. `attri.runtime.ort` uses the marked
setting. Weights are random: time does not depend on them. The table is kept in benchmarks/session.md.
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

from attri.export.onnx import save, trace_vision
from attri.train.backbone import load_backbone
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
}
CORES = len(os.sched_getaffinity(0))
USED = (CORES, True, "all")  # what attri.runtime.ort asks for
SETTINGS = [USED, (CORES, False, "all"), (1, True, "all"), (CORES, True, "extended"), (CORES, True, "basic")]


def session(path: Path, threads: int, spinning: bool, level: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = LEVELS[level]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    model = AttriPrompt(load_backbone(arguments.model), PromptConfig()).eval()
    side = model.backbone.preprocess().size
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vision.onnx"
        save(trace_vision(model, "fp32", 18), path)
        contestants = {setting: session(path, *setting) for setting in SETTINGS}
    times: dict[tuple[int, bool, str], list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(arguments.rounds):
        for setting, each in contestants.items():
            wall, used = time.perf_counter(), time.process_time()
            each.run(None, {"pixels": pixels})
            times[setting].append((time.perf_counter() - wall, time.process_time() - used))
    lines = [
        f"{arguments.model}, ONNX Runtime {ort.__version__}, CPU ({platform.machine()}), {CORES} cores,"
        f" {arguments.rounds} rounds in turn.",
        "",
        "| threads | spinning | graph level | median ms | slowest tenth ms | processor ms |",
        "|---|---|---|---|---|---|",
    ]
    for setting, measured in times.items():
        wall, used = (1000 * np.array(part) for part in zip(*measured, strict=True))
        threads, spinning, level = setting
        mark = " (used)" * (setting == USED)
        figures = f"{np.median(wall):.1f} | {np.quantile(wall, 0.9):.1f} | {np.median(used):.1f}"
        lines.append(f"| {threads}{mark} | {'on' if spinning else 'off'} | {level} | {figures} |")
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
