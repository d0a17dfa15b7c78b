"""Checkpoints without pickle: tensors as safetensors with JSON metadata, written atomically.

prompt.safetensors   the result: learned tensors; the metadata names the backbone and holds the configs
state.safetensors    the same plus the optimizer's moments and the history, to resume from; removed at the end
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attri.runtime._util.atomic import replacing
from attri.runtime.errors import FailedError, UsageError
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data.dataset import Dataset

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """A trained prompt as read from disk."""

    prompt: PromptConfig
    train: TrainConfig
    backbone: dict[str, str]  # model, pretrained, sha256
    classes: list[str]
    data: str  # folder of the images
    tensors: dict[str, Tensor]


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and their metadata, atomically.

    Raises:
        FailedError: the file cannot be written; what was there before is kept.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, {"attri": json.dumps(metadata)})
            temporary.chmod(0o644)  # safetensors leaves it to the owner alone, but runs are there to be handed on
    except (OSError, SafetensorError) as error:
        raise FailedError(f"cannot write {path} ({error}): what was there before is kept") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata.

    Raises:
        FailedError: the file is damaged or was not written by attri.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["attri"])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise FailedError(f"{path} is not a readable attri file ({error}): train again") from error


def describe(prompt: PromptConfig, train: TrainConfig, backbone: dict[str, str], dataset: Dataset) -> dict[str, Any]:
    """Return the metadata of both files. Two runs with equal metadata learn the same."""
    return {
        "format": FORMAT,
        "prompt": asdict(prompt),
        "train": asdict(train),
        "backbone": backbone,
        "classes": dataset.classes,
        "data": str(dataset.root),
        "images": dataset.fingerprint(),
    }


def load_run(folder: Path | str) -> Run:
    """Read `folder/prompt.safetensors`.

    Raises:
        UsageError: there is no finished run, or it is of another version of attri.
        FailedError: the file is damaged.
    """
    folder = Path(folder)
    path = folder / "prompt.safetensors"
    if not path.is_file():
        unfinished = (folder / "state.safetensors").exists()
        what = "its training is not finished: run attri-train again" if unfinished else "run attri-train first"
        raise UsageError(f"no trained prompt in {folder}: {what}")
    tensors, meta = load_tensors(path)
    try:
        if meta["format"] != FORMAT:
            raise UsageError(f"{path} has format {meta['format']}, this attri reads {FORMAT}: update attri")
        backbone = {name: str(meta["backbone"][name]) for name in ("model", "pretrained", "sha256")}
        return Run(
            PromptConfig(**meta["prompt"]),
            TrainConfig(**{**meta["train"], "frozen_templates": tuple(meta["train"]["frozen_templates"])}),
            backbone,
            [str(name) for name in meta["classes"]],
            str(meta["data"]),
            tensors,
        )
    except (LookupError, TypeError, AttributeError) as error:  # a field more or less, or something else in its place
        raise UsageError(f"{path} is of another version of attri, or damaged ({error}): train again") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's moments by parameter number, as a flat dict."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned; learning rates come from the schedule, not from here."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
