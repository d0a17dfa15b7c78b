"""Results on disk: the logits of one method, training and seed on every part that it is scored on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.atomic import replacing


@dataclass(frozen=True)
class Part:
    """Answers on one set of images.

    Attributes:
        logits: [I, C].
        targets: [I].
    """

    logits: NDArray[np.float32]
    targets: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the highest logit is the image's class. [I]."""
        right: NDArray[np.bool_] = self.logits.argmax(1) == self.targets
        return right


@dataclass(frozen=True)
class Cell:
    """One training of one method.

    Attributes:
        about: everything that the result depends on.
        parts: by name.
        seconds: of the processor for training, without features.
    """

    about: dict[str, Any]
    parts: dict[str, Part]
    seconds: float


def save(file: Path, cell: Cell) -> None:
    """Write a cell."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{name}/{field}": array for name, part in cell.parts.items() for field, array in vars(part).items()}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, about=np.array(json.dumps([cell.about, cell.seconds])), **arrays)


def load(file: Path) -> Cell:
    """Read a cell."""
    with np.load(file) as arrays:
        about, seconds = json.loads(str(arrays["about"]))
        names = dict.fromkeys(name.rpartition("/")[0] for name in arrays.files if name != "about")
        parts = {name: Part(arrays[f"{name}/logits"], arrays[f"{name}/targets"]) for name in names}
    return Cell(about, parts, seconds)


def done(file: Path, about: dict[str, Any]) -> bool:
    """Whether the file holds the result of just this."""
    if not file.is_file():
        return False
    with np.load(file) as arrays:
        return bool(json.loads(str(arrays["about"]))[0] == json.loads(json.dumps(about)))
