"""An int8 bundle of the tests' model, calibrated on a few real images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.parity.report import ParityReport
from attri.export.progress import Progress
from attri.export.quantize import Calibration
from attri.train.model import AttriPrompt

LABELS = ["red apple", "bird", "a small house"]
# Prompts that nobody trained leave the labels nearly tied: of 24 images, one or two may fall to another.
GATES = Gates(0.98, 0.9, 0.9)


class Recorded(Progress):
    """Passes messages on."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def say(self, message: str) -> None:
        self._say(message)


def export_int8(
    model: AttriPrompt,
    images: Sequence[Path],
    path: Path,
    calibration: Calibration,
    say: Callable[[str], object] = lambda line: None,
) -> ParityReport:
    """Export to `path`; the parity check is on images 16 to 40."""
    options = ExportOptions(precision="int8", calibration=calibration, gates=GATES)
    return export_bundle(model, path, LABELS, images[16:40], options, Recorded(say))


def make_int8(model: AttriPrompt, images: Sequence[Path], folder: Path) -> None:
    """Make folder/bundle, folder/photos, which it is calibrated on, and folder/told.txt, what was told meanwhile."""
    (folder / "photos").mkdir(parents=True)
    for number, file in enumerate(images[:16]):
        shutil.copy(file, folder / "photos" / f"{number:02}.png")
    told: list[str] = []
    export_int8(model, images, folder / "bundle", Calibration(folder / "photos"), told.append)
    (folder / "told.txt").write_text("\n".join(told))
