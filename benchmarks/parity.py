"""Parity of exported bundles with the PyTorch model, on real pictures: pocket and ViT-B-16, fp32 and fp16.

    python benchmarks/parity.py [--pictures 64]

ViT-B-16 has random weights here, and both have strong random prompts: rounding does not know what is trained.
The tables are kept in benchmarks/parity.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from attri.export.cli import sample
from attri.export.onnx import export_bundle
from attri.runtime.labels import class_words
from attri.train.backbone import load_backbone
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.pocket import IMAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    arguments = parser.parse_args()
    labels = [class_words(folder.name) for folder in sorted((IMAGES / "test").iterdir())]
    sections = []
    for name in ("pocket", "ViT-B-16"):
        torch.manual_seed(0)
        model = AttriPrompt(load_backbone(name), PromptConfig()).eval()
        with torch.no_grad():
            model.pool.tokens.normal_()
        for precision in ("fp32", "fp16"):
            with tempfile.TemporaryDirectory() as folder:
                pictures = sample(IMAGES, arguments.pictures)
                report = export_bundle(model, Path(folder) / "bundle", labels, pictures, precision=precision)
            sections.append(f"{name}, {precision}\n\n{report.table()}")
            print(sections[-1], "\n", flush=True)
    text = "\n\n".join("    " + section.replace("\n", "\n    ") for section in sections)
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + text + "\n")


if __name__ == "__main__":
    main()
