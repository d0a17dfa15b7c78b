"""Parity of exported bundles with the PyTorch model, on real images: pocket and ViT-B-16, fp32 and fp16.

    python -m benchmarks.parity [--images 64]

The tables are kept in benchmarks/parity.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import torch

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.parity.images import find_parity_images
from attri.runtime.labels import class_words
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES
from benchmarks.common import keep

WEIGHTS = """pocket has its trained weights, ViT-B-16 random ones, and both have strong random prompts. A trained
ViT-B-16 is checked when it is exported. With random weights all classes are alike: the best label leads by 0.0005
logits, and half precision may swap it with the next, so top-1 of ViT-B-16 has no gate here."""


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    arguments = parser.parse_args()
    labels = [class_words(folder.name) for folder in sorted((IMAGES / "test").iterdir())]
    sections = []
    for name in ("pocket", "ViT-B-16"):
        torch.manual_seed(0)
        model = AttriPrompt(load_backbone(name), PromptConfig()).eval()
        with torch.no_grad():
            model.pool.tokens.normal_()
        for precision in ("fp32", "fp16"):
            gates = Gates.of(precision)
            gates = gates if name == "pocket" else replace(gates, top1=0.0)
            with tempfile.TemporaryDirectory() as folder:
                images = find_parity_images(IMAGES, arguments.images)
                options = ExportOptions(precision=precision, gates=gates)
                report = export_bundle(model, Path(folder) / "bundle", labels, images, options)
            sections.append(f"{name}, {precision}\n\n{report.table()}")
    text = "\n\n".join([WEIGHTS, *(indent(section, "    ") for section in sections)])
    keep(Path(__file__), __doc__, text)


if __name__ == "__main__":
    main()
