"""What is known of a model beside its graphs: what it was trained on, how well it did, and under which licence."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attri.runtime.errors import FailedError
from attri.train.training.checkpoint import Run
from attri.train.training.run_folder import RESULTS

# Of weights by open_clip's tag, as their publishers state them. What is not here is not known to us.
LICENCES = {
    "embedded": "made for attri from pictures under Apache-2.0, MIT and CC BY 4.0, see train/pocket/README.md",
    "openai": "MIT, that of the repository in which OpenAI published CLIP",
    "metaclip": "CC BY-NC 4.0, not for commercial use",
    "dfn": "Apple's licence for research models (apple-amlr)",
}
NOT_KNOWN = "not known to attri: see where the weights come from"


@dataclass(frozen=True)
class Card:
    """Of a run; an empty one says of everything that it is not known.

    data      name of the folder of the pictures
    train     how many pictures, shots, epochs, seed
    accuracy  rows of what was scored, pictures, classes, prompted, and zero_shot where it was measured
    """

    data: str | None = None
    classes: list[str] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)
    accuracy: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, run: Run) -> Card:
        """Of a run folder, which may belong to a protocol.

        Raises:
            FailedError: its results are of another training than the run that was read.
        """
        results = read_results(folder)
        if not is_of(results, run):
            raise FailedError(f"the results in {folder} are of another training than its prompt: export it again")
        train = {name: getattr(run.train, name) for name in ("shots", "epochs", "seed")}
        pictures = results.get("train", {}).get("images")
        compared = protocol_rows(folder, run)
        own = ("val",) if compared else ("test", "val")  # the protocol's first row is the run's own test
        parts = [(part, results[part]) for part in own if part in results]
        rows = [
            {
                "of": part,
                "classes": len(run.classes),
                "pictures": row["images"],
                "prompted": row["prompted"],
                "zero_shot": row["zero_shot"],
            }
            for part, row in parts
        ]
        return cls(Path(run.data).name, run.classes, {"pictures": pictures, **train}, compared + rows)


def protocol_rows(folder: Path, run: Run) -> list[dict[str, Any]]:
    """What the protocol that a run belongs to says of it: base and novel, other datasets, other domains."""
    results = read_results(folder.resolve().parent)
    method = folder.resolve().name.partition("-")[0]
    own = {"seed": run.train.seed, "shots": run.train.shots}
    scores = [s for s in results.get("scores", []) if own.items() <= s.items()]
    zero_shot = {s["column"]: s["accuracy"] for s in scores if s["method"] == "zero-shot"}
    return [
        {
            "of": s["column"],
            "classes": s["classes"],
            "pictures": s["images"],
            "prompted": s["accuracy"],
            "zero_shot": zero_shot.get(s["column"]),
        }
        for s in scores
        if s["method"] == method
    ]


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a folder, or nothing: a card is written all the same."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def is_of(results: dict[str, Any], run: Run) -> bool:
    """Whether results, where they say whose they are, are of this run."""
    meta = results.get("run")
    own = {"prompt": asdict(run.prompt), "train": asdict(run.train), "classes": run.classes, "data": run.data}
    return not isinstance(meta, dict) or json.loads(json.dumps(own)).items() <= meta.items()


def licence(pretrained: str) -> str:
    """Of a backbone's weights, by open_clip's tag."""
    if Path(pretrained).suffix or "/" in pretrained:
        return NOT_KNOWN  # a file of the user's own
    return next((text for tag, text in LICENCES.items() if pretrained.startswith(tag)), NOT_KNOWN)
