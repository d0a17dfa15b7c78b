"""Write the tests' bundle to a folder, for a machine without torch.

python tests/support/make_bundle.py FOLDER [PRECISION]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from attri.export.onnx import ExportOptions, export_bundle
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES

LABELS = ["red apple", "bird", "a small house"]


def random_model() -> AttriPrompt:
    """The embedded backbone with strong random prompts: tests of graphs do not depend on training."""
    torch.manual_seed(0)
    model = AttriPrompt(load_backbone(), PromptConfig()).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    return model


if __name__ == "__main__":
    precision: Any = sys.argv[2] if len(sys.argv) > 2 else "fp32"
    images = [sorted(folder.glob("*.png"))[0] for folder in sorted((IMAGES / "test").iterdir())]
    export_bundle(random_model(), Path(sys.argv[1]), LABELS, images[:8], ExportOptions(precision))
