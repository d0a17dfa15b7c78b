"""The prompt that training starts at: one of a run, or a prompt file of a bundle that is in use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attri.runtime.bundle import PROMPT, PROMPT_SHAPE
from attri.runtime.errors import UsageError
from attri.runtime.prompt import Prompt, short
from attri.train.config import FROZEN_TEMPLATES, PromptConfig
from attri.train.incremental.token_recovery import tokens_of_tables
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import Backbone
from attri.train.training.checkpoint import load_run
from attri.train.training.run_folder import PROMPT as TENSORS
from attri.train.training.run_folder import RESULTS

AGREES = 1e-3  # of the largest value of a table: how well recovered tokens must give the table again


@dataclass(frozen=True)
class Start:
    """A prompt to start at.

    Attributes:
        path: where it was read.
        digest: of its tensors; with the images and the config it says which training this is.
        config: shape of the prompt and of retrieval.
        backbone: "model", "sha256", and "pretrained" where that is known.
        classes: that it knows.
        template: sentence around each label.
        frozen_templates: of the text features without prompts.
        tensors: of a run, the learned ones; of a prompt file its keys and tables.
        attracts: classes that its entries attract, by block (one where all share a pool) and entry; None where that is
            not known.
    """

    path: Path
    digest: str
    config: PromptConfig
    backbone: dict[str, str]
    classes: list[str]
    template: str
    frozen_templates: tuple[str, ...]
    tensors: dict[str, Tensor] = field(repr=False)
    attracts: list[list[list[str]]] | None = field(default=None, repr=False)

    @property
    def known(self) -> int:
        """The number of classes that it knows."""
        return len(self.classes)

    def describe(self) -> dict[str, Any]:
        """What a run's metadata say of it."""
        return {"prompt": self.path.name, "digest": self.digest, "classes": self.known}

    def model(self, backbone: Backbone) -> AttriPrompt:
        """Build the model with this prompt.

        Args:
            backbone: on the device to train on.

        Raises:
            UsageError: the prompt was learned on other weights, or its tables are not those of any tokens.
        """
        if backbone.sha256 != self.backbone["sha256"]:
            ours, theirs = short(backbone.sha256), short(self.backbone["sha256"])
            raise UsageError(
                f"{self.path} was learned on other weights of {self.backbone['model']} (sha256 {theirs}, these have"
                f" {ours}): name the right ones with `pretrained`"
            )
        model = AttriPrompt(backbone, self.config).to(backbone.token_embedding.device)
        tensors = self.tensors if "tokens" in self.tensors else _recovered(model, self.tensors, self.path)
        model.pool.load_state_dict(tensors)
        return model.eval()


def read_start(path: Path, **retrieval: Any) -> Start:
    """Read a run's folder, a prompt file, or a bundle's folder with one.

    Args:
        path: of it.
        retrieval: fields of `PromptConfig` that a prompt file of an older attri does not name.

    Raises:
        UsageError: it is none of these, or a prompt that images do not retrieve from.
        BundleError: the prompt file is missing or damaged.
        FailedError: the run's tensors are damaged.
    """
    if path.is_dir() and not (path / PROMPT).is_file():
        return _of_run(path.resolve(), retrieval)  # runs/latest may point elsewhere soon
    return _of_file(path / PROMPT if path.is_dir() else path, retrieval)


def _of_run(folder: Path, retrieval: dict[str, Any]) -> Start:
    run = load_run(folder)
    if retrieval:
        raise UsageError(f"{folder} says how its prompt retrieves: leave out {_options(retrieval)}")
    digest = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    train = run.train
    return Start(
        path=folder,
        digest=digest,
        config=run.prompt,
        backbone=run.backbone,
        classes=run.classes,
        template=train.template,
        frozen_templates=train.frozen_templates,
        tensors=run.tensors,
        attracts=_names_of_run(folder),
    )


def _names_of_run(folder: Path) -> list[list[list[str]]] | None:
    """The classes that the entries of a run attract; None where its results are gone."""
    try:
        blocks = json.loads((folder / RESULTS).read_text(encoding="utf-8")).get("pool_entries")
    except (OSError, ValueError):
        return None
    return [[[row["name"] for row in entry] for entry in block] for block in blocks] if blocks else None


def _of_file(path: Path, retrieval: dict[str, Any]) -> Start:
    prompt = Prompt.read(path)
    facts, base = prompt.facts, prompt.facts.base
    if not prompt.retrieves:
        raise UsageError(f"no image retrieves from {path}, it holds {facts.selection} of its entries: start at another")
    source = facts.source or {}
    known = source.get("retrieval", {})
    if known and retrieval:
        raise UsageError(f"{path} says how it retrieves: leave out {_options(retrieval)}")
    keys = prompt.tensors["keys"]
    shared = bool((keys == keys[:1]).all())
    config = PromptConfig(
        **{name: base[name] for name in PROMPT_SHAPE},
        **(known or retrieval),
        pool_size=prompt.entries,
        shared=shared,
    )
    return Start(
        path=path,
        digest=prompt.digest,
        config=config,
        backbone={"model": base["model"], "sha256": base["weights"]},
        classes=facts.labels,
        template=facts.template,
        frozen_templates=tuple(source.get("frozen_templates", (facts.template, *FROZEN_TEMPLATES[1:]))),
        tensors={name: torch.from_numpy(np.array(tensor)) for name, tensor in prompt.tensors.items()},
        attracts=facts.attracts and (facts.attracts[:1] if shared else facts.attracts),
    )


def _options(retrieval: dict[str, Any]) -> str:
    return " and ".join(f"`{name}`" for name in retrieval)


def _recovered(model: AttriPrompt, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The pool's tensors of a prompt file's.

    Raises:
        UsageError: its tables are not those of any tokens on this backbone.
    """
    blocks, device = model.prompted_blocks, model.pool.keys.device
    keys, table = tensors["keys"].transpose(1, 2).to(device), tensors["prompt_table"].to(device)
    if model.config.shared:
        keys, tokens = keys[:1], tokens_of_tables(blocks, table)[None]
    else:
        tokens = torch.stack([tokens_of_tables([block], own[None]) for block, own in zip(blocks, table, strict=True)])
    static = model.pool.static.detach()
    if model.config.static_tokens:
        own = tensors["static_table"].to(device)
        static = torch.stack([tokens_of_tables([block], row[None]) for block, row in zip(blocks, own, strict=True)])
    found = {"keys": keys.contiguous(), "tokens": tokens, "static": static}
    model.pool.load_state_dict(found)
    with torch.no_grad():
        again = model.tables()[0]
    if float((again - table).abs().max()) > AGREES * float(table.abs().max()):
        raise UsageError(f"the tables of {path} are not those of any tokens: start at the run that it was made from")
    return found
