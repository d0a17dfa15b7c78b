"""What benchmarks over several models share: their command line, prompts of random numbers, and the table."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.quantize import Calibration
from attri.runtime.bundle import Precision
from attri.runtime.images import list_images
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES
from benchmarks.common import keep

WEIGHTS = "Weights but pocket's are random: time does not depend on them."


def command_line(doc: str) -> argparse.ArgumentParser:
    """The options `--models` and `--rounds`; a benchmark may add its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="pocket,ViT-B-32,ViT-B-16")
    parser.add_argument("--rounds", type=int, default=15)
    return parser


def export_random(name: str, path: Path, labels: list[str], precision: Precision = "fp32") -> None:
    """Export a bundle of this model with a prompt of random numbers.

    Random classes are all alike, so top-1 is not asked for.
    """
    torch.manual_seed(0)
    model = AttriPrompt(load_backbone(name), PromptConfig()).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    gates = {"fp32": Gates(0.9999, 0.99, 0.0), "int8": Gates(0.98, 0.95, 0.0)}[precision]
    calibration = Calibration(IMAGES) if precision == "int8" else None
    options = ExportOptions(precision, gates=gates, calibration=calibration)
    export_bundle(model, path, labels, list_images(IMAGES / "test")[:8], options)


def keep_table(
    script: str,
    doc: str,
    about: str,
    columns: Sequence[str],
    models: str,
    rows: Callable[[str, Path], Iterable[str]],
) -> None:
    """Measure the models one after the other, and keep the page.

    Args:
        script: `__file__` of the benchmark.
        doc: Its docstring.
        about: What the page says before the table.
        columns: Of the table.
        models: Names, with commas between.
        rows: Measures one model in an empty folder; gives its rows.
    """
    lines = [about, "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name in models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            lines += rows(name, Path(folder))
    keep(Path(script), doc, "\n".join(lines))
