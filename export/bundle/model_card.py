"""Model card: training data, accuracy and licence of an exported model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attri.runtime.errors import FailedError
from attri.train.model import catalogue
from attri.train.training.checkpoint import Run
from attri.train.training.run_folder import RESULTS

__all__ = ["NOT_KNOWN", "Card", "entry_names", "licence", "results_of"]

POCKET = "made for attri from images under Apache-2.0, MIT and CC BY 4.0, see train/pocket/README.md"
NOT_KNOWN = "not known to attri: see where the weights come from"


@dataclass(frozen=True)
class Card:
    """Facts about a run; empty where nothing is known."""

    data: str | None = None  # name of the folder of the training images
    classes: list[str] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)  # images, shots, epochs, seed
    # Rows of: part, images, classes, accuracy with prompts and, where measured, zero-shot.
    accuracy: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, run: Run) -> Card:
        """Read the card of a run from its folder, which may belong to a protocol.

        Raises:
            FailedError: the results in the folder are those of another training.
        """
        results = results_of(folder, run)
        train = {name: getattr(run.train, name) for name in ("shots", "epochs", "seed")}
        images = results.get("train", {}).get("images")
        compared = _protocol_rows(folder, run)
        own = ("val",) if compared else ("test", "val")  # the protocol's first row is the run's own test
        parts = [(part, results[part]) for part in own if part in results]
        rows = [
            {
                "of": part,
                "classes": len(run.classes),
                "images": row["images"],
                "prompted": row["prompted"],
                "zero_shot": row["zero_shot"],
            }
            for part, row in parts
        ]
        return cls(Path(run.data).name, run.classes, {"images": images, **train}, compared + rows)


def _protocol_rows(folder: Path, run: Run) -> list[dict[str, Any]]:
    """Accuracy rows of the protocol that a run belongs to: base and novel, other datasets, other domains."""
    results = _read_results(folder.resolve().parent)
    method = folder.resolve().name.partition("-")[0]
    own = {"seed": run.train.seed, "shots": run.train.shots}
    scores = [s for s in results.get("scores", []) if own.items() <= s.items()]
    zero_shot = {s["column"]: s["accuracy"] for s in scores if s["method"] == "zero-shot"}
    return [
        {
            "of": s["column"],
            "classes": s["classes"],
            "images": s["images"],
            "prompted": s["accuracy"],
            "zero_shot": zero_shot.get(s["column"]),
        }
        for s in scores
        if s["method"] == method
    ]


def results_of(folder: Path, run: Run) -> dict[str, Any]:
    """Read the results of a run, {} where it has none.

    Raises:
        FailedError: the results in the folder are those of another training.
    """
    results = _read_results(folder)
    if not _is_of(results, run):
        raise FailedError(f"the results in {folder} are of another training than its prompt: export it again")
    return results


def entry_names(results: dict[str, Any]) -> list[list[list[str]]] | None:
    """The classes that each pool entry attracts, as the training found them in the features of all its images.

    Args:
        results: of a run.

    Returns:
        For each block, or the one pool that all blocks share, and for each entry the names of classes, the strongest
        first; None where the results have none.
    """
    blocks = results.get("pool_entries")
    return [[[row["name"] for row in entry] for entry in block] for block in blocks] if blocks else None


def _read_results(folder: Path) -> dict[str, Any]:
    """results.json of a folder, or {} where it cannot be read."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _is_of(results: dict[str, Any], run: Run) -> bool:
    """Whether results are of this run, or do not name their run."""
    meta = results.get("run")
    own = {"prompt": asdict(run.prompt), "train": asdict(run.train), "classes": run.classes, "data": run.data}
    return not isinstance(meta, dict) or json.loads(json.dumps(own)).items() <= meta.items()


def licence(name: str, pretrained: str) -> str:
    """The licence of a backbone's weights.

    Args:
        name: of the model.
        pretrained: open_clip's tag, or what else says where its weights came from.
    """
    if pretrained == "embedded":
        return POCKET
    return catalogue.licence(name, pretrained) or NOT_KNOWN
