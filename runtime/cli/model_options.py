"""Options about the bundle, its labels and what runs its graphs: those that every command that classifies takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from attri.runtime.cli.command import ENGINE, LABELS, option
from attri.runtime.cli.sources.tasks import TaskType
from attri.runtime.engines.onnxruntime import DEVICES, Device
from attri.runtime.engines.select import BACKENDS, Backend
from attri.runtime.errors import UsageError

_PATH = click.Path(path_type=Path)
TASK = option(
    LABELS,
    "--task",
    "tasks",
    type=TaskType(),
    multiple=True,
    metavar="NAME=PROMPT[:LABELS]",
    help="One of several tasks on one vision pass; may be repeated. [the bundle's prompt; --labels]",
)
TEMPLATE = option(LABELS, "--template", help="Sentence around each label, with {} in its place. [the bundle's own]")
OPTIONS = {  # by the fields of `Model`
    "labels": option(LABELS, "--labels", type=_PATH, help="Text file with one label per line. [the bundle's own]"),
    "bundle": option(
        ENGINE,
        "--bundle",
        type=_PATH,
        default=Path("bundle"),
        show_default=True,
        help="Folder that attri-export wrote.",
    ),
    "prompt": option(LABELS, "--prompt", type=_PATH, help="Prompt file. [the bundle's]"),
    "backend": option(
        ENGINE,
        "--backend",
        type=click.Choice(BACKENDS),
        default="auto",
        show_default=True,
        help="What runs the graphs.",
    ),
    "device": option(
        ENGINE, "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Processor to use."
    ),
    "engine_dir": option(ENGINE, "--engine-dir", type=_PATH, help="Folder of the engine cache. [BUNDLE/engines]"),
    "rebuild_engines": option(ENGINE, "--rebuild-engines", is_flag=True, help="Build engines again, even if cached."),
    "threshold": option(
        LABELS, "--threshold", type=click.FloatRange(0, 1), help="Scores below mean none of the labels. [the bundle's]"
    ),
    "independent": option(
        LABELS, "--independent", is_flag=True, help="Score each label by itself: several may hold, or none."
    ),
    "threads": option(ENGINE, "--threads", type=click.IntRange(1), help="CPU threads. [one per available CPU]"),
    "text_cache_mb": option(
        ENGINE,
        "--text-cache-mb",
        type=click.IntRange(0),
        default=256,
        show_default=True,
        help="Largest size of the text cache, MB.",
    ),
    "shortlist": option(
        LABELS, "--shortlist", type=click.IntRange(1), help="Prompt only this many labels, the nearest. [all]"
    ),
}


@dataclass(frozen=True)
class Model:
    """Values of the options.

    Attributes:
        labels: The labels file; None are the prompt's own.
        bundle: Of Classifier.load, like what follows.
        prompt: Its file.
        backend: Likewise.
        device: Likewise.
        engine_dir: Likewise.
        rebuild_engines: Likewise.
        threshold: Scores below it are none of the labels; None is the prompt's.
        independent: Of Classifier.load.
        threads: Likewise.
        text_cache_mb: Largest size of the text cache, MB.
        shortlist: Of Classifier.load.
    """

    labels: Path | None
    bundle: Path
    prompt: Path | None
    backend: Backend
    device: Device
    engine_dir: Path | None
    rebuild_engines: bool
    threshold: float | None
    independent: bool
    threads: int | None
    text_cache_mb: int
    shortlist: int | None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `Classifier.load`, without path, labels and tasks."""
        return {
            "prompt": self.prompt,
            "backend": self.backend,
            "device": self.device,
            "threads": self.threads,
            "engine_dir": self.engine_dir,
            "rebuild_engines": self.rebuild_engines,
            "cache_bytes": self.text_cache_mb << 20,
            "shortlist": self.shortlist,
            "independent": self.independent,
        }

    def check_topk(self, topk: int) -> None:
        """Check that so many labels can be shown.

        Raises:
            UsageError: The shortlist has fewer.
        """
        if self.shortlist is not None and self.shortlist < topk:
            raise UsageError(f"--topk {topk} shows more labels than --shortlist {self.shortlist} prompts: raise that")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command these options; its function gets their values as one argument, `model`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        model = Model(**{field.name: kwargs.pop(field.name) for field in fields(Model)})
        return command(*args, model=model, **kwargs)

    for add in reversed(OPTIONS.values()):
        wrapper = add(wrapper)
    return wrapper
