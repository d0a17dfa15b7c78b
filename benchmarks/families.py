"""Parity of each family of image towers with the PyTorch model: fp32, fp16 and int8, at both opsets.

    python -m benchmarks.families [--families RN50,...] [--images 8]

One small model of each family, of tests/support/models.py: its own parts at real patch sizes, few and narrow blocks,
random weights and random prompts. So it says what arithmetic costs, and not what it costs in accuracy. The table is
kept in benchmarks/families.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.quantize import Calibration
from attri.runtime.bundle import Precision
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import UsageError
from attri.runtime.images import list_images
from attri.train.model import AttriPrompt
from attri.train.pocket import IMAGES
from benchmarks.common import keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.models import FAMILIES, prompted_tower

LABELS = ["bird", "red apple", "a very small wooden house"]
OPEN = Gates(-1.0, 0.0, 0.0)  # the table says what is reached
STAGES = (ParityStage.IMAGE_FEATURES, ParityStage.RETRIEVED, ParityStage.TEXT_FEATURES)
VARIANTS: tuple[tuple[Precision, int], ...] = (("fp32", 18), ("fp16", 18), ("fp16", 17), ("int8", 18))


def cell(model: AttriPrompt, precision: Precision, opset: int, images: list[Path]) -> str:
    """Worst 1 - cosine of image and text features, and the share of equal entries; or that there is no such bundle."""
    calibration = Calibration(IMAGES / "train") if precision == "int8" else None
    options = ExportOptions(precision, opset=opset, gates=OPEN, calibration=calibration)
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export_bundle(model, Path(folder) / "bundle", LABELS, images, options)
        except UsageError:  # before anything is traced: it is made of convolutions
            return "refused"
    # An int8 bundle has a stage for each of two arithmetics: the worse one counts.
    image, entries, text = (
        min(getattr(stage, stage.figure) for stage in report.stages if stage.id == wanted) for wanted in STAGES
    )
    return f"{1 - image:.0e}, {entries:.1%}, {1 - text:.0e}"


def main() -> None:
    """Export, compare, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--images", type=int, default=8)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # of the tracer's optimizer
    images = list_images(IMAGES / "test")[: arguments.images]
    lines = [
        f"On {arguments.images} images: worst 1 - cosine of image features, share of equal pool entries, worst 1 -"
        " cosine of text features. Gates are 1e-5, 99.9%, 1e-5 in fp32; 1e-3, 99%, 1e-3 in fp16; 2e-2, 95%, 2e-2 in"
        " int8. Of so few entries of random keys, one near tie that rounding decides is a percent or more."
        " Towers made of convolutions are refused in int8.",
        "",
        f"| small model of | {' | '.join(f'{precision}, opset {opset}' for precision, opset in VARIANTS)} |",
        f"|{'---|' * (1 + len(VARIANTS))}",
    ]
    for name in arguments.families.split(","):
        cells = [cell(prompted_tower(name), *variant, images) for variant in VARIANTS]
        lines.append(f"| {' | '.join([name, *cells])} |")
        print(lines[-1], flush=True)
    keep(Path(__file__), __doc__ or "", "\n".join(lines))


if __name__ == "__main__":
    main()
