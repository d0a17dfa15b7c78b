"""The run folder: choose or create it, lock it for one training, and point `runs/latest` to the newest finished run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from attri.runtime._util import atomic
from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime._util.printable import json_text
from attri.runtime.errors import FailedError, UsageError
from attri.train.training import distributed
from attri.train.training.checkpoint import load_tensors, save_tensors

RUNS = Path("runs")
STATE, PROMPT, RESULTS = "state.safetensors", "prompt.safetensors", "results.json"
TRAINED = "training_images.csv"
LOCK = ".attri.lock"
PROGRESS = "progress_state"  # key that only the metadata of STATE has
_LOGGER = logging.getLogger("attri")


@dataclass(frozen=True)
class RunFolder:
    """A claimed folder, of one training or of a protocol over many.

    Only rank 0 of several processes writes; all must call, and all get its error.

    Attributes:
        path: the folder.
        meta: metadata of the run; equal metadata means the same training.
        state: tensors of an unfinished run with the same settings, else empty.
        progress_state: how far that run had come (`Trainer.progress_state`), else empty.
    """

    path: Path
    meta: dict[str, Any]
    state: dict[str, Tensor] = field(default_factory=dict)
    progress_state: dict[str, Any] = field(default_factory=dict)

    def save_state(self, tensors: dict[str, Tensor], progress_state: dict[str, Any]) -> None:
        """Write the training state, to resume from."""
        distributed.on_rank_zero(
            lambda: save_tensors(self.path / STATE, tensors, {**self.meta, PROGRESS: progress_state})
        )

    def save_prompt(self, tensors: dict[str, Tensor]) -> None:
        """Write the learned tensors."""
        distributed.on_rank_zero(lambda: save_tensors(self.path / PROMPT, tensors, self.meta))

    def finish(self, results: dict[str, Any]) -> None:
        """Write results.json, which marks the run as complete, and remove the training state."""
        self.write(RESULTS, json_text(results, indent=2) + "\n")
        if distributed.rank() == 0:
            (self.path / STATE).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a text file."""
        distributed.on_rank_zero(lambda: write_file(self.path / name, text.encode(errors="surrogateescape")))

    def point_latest(self) -> None:
        """Point runs/latest to this run, also where it lies elsewhere (--output); warn where that fails."""
        if distributed.rank() > 0:
            return
        link = RUNS / f".latest.{os.getpid()}"
        try:
            RUNS.mkdir(exist_ok=True)
            link.symlink_to(os.path.relpath(self.path, RUNS))
            link.replace(RUNS / "latest")
        except OSError as error:
            with suppress(OSError):
                link.unlink()
            reason = error.strerror or error
            _LOGGER.warning("%s cannot point to the run (%s): name it, %s", RUNS / "latest", reason, self.path)


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        FailedError: it cannot be written; what was there before is kept.
    """
    try:
        atomic.write_file(path, data)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def claim(output: Path | str | None, name: str, meta: dict[str, Any]) -> Iterator[RunFolder]:
    """Claim `output`, or the first folder runs/NAME-1, -2, ... that is empty or holds this very run unfinished.

    Of several processes rank 0 claims it for all.

    Raises:
        UsageError: `output` holds something else.
        FailedError: `output` is in use by another process, is damaged, or cannot be written.
    """
    with ExitStack() as held:
        folder = None if output is None else Path(output)
        yield distributed.on_rank_zero(lambda: held.enter_context(_claim(folder, name, meta)))


@contextmanager
def _claim(output: Path | None, name: str, meta: dict[str, Any]) -> Iterator[RunFolder]:
    try:
        folder, lock = _numbered(name, meta) if output is None else (output, _lock(output))
    except OSError as error:
        raise FailedError(f"cannot write the run folder {output or RUNS}: {error.strerror}") from error
    if lock is None:
        raise FailedError(f"another attri-train is at work in {folder}: wait for it or choose another `output`")
    try:
        yield _open(folder, meta)
    finally:
        unlock(folder / LOCK, lock)


def _numbered(name: str, meta: dict[str, Any]) -> tuple[Path, IO[str]]:
    for number in count(1):
        folder = RUNS / f"{name}-{number}"
        if folder.exists() and _taken(folder):
            continue
        lock = _lock(folder)
        if lock is not None:
            if not _taken(folder) and _free(folder, meta):
                return folder, lock
            unlock(folder / LOCK, lock)
    raise AssertionError("count() does not end")


def _taken(folder: Path) -> bool:
    """Whether there is a finished run, or something that attri-train did not write and must not touch."""
    if not folder.is_dir() or (folder / RESULTS).exists():
        return True
    return not (folder / STATE).exists() and bool(_contents(folder))


def _free(folder: Path, meta: dict[str, Any]) -> bool:
    """Whether a folder that is not taken is empty, or holds this very run unfinished; a damaged state is left alone."""
    try:
        return not (folder / STATE).exists() or _same(folder, meta)
    except FailedError as error:
        _LOGGER.warning("%s, in another folder", error)
        return False


def _contents(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]


def _lock(folder: Path) -> IO[str] | None:
    folder.mkdir(parents=True, exist_ok=True)
    return try_lock(folder / LOCK)


def _same(folder: Path, meta: dict[str, Any]) -> bool:
    stored = dict(load_tensors(folder / STATE)[1])
    stored.pop(PROGRESS, None)
    return bool(stored == json.loads(json.dumps(meta)))


def _open(folder: Path, meta: dict[str, Any]) -> RunFolder:
    if (folder / RESULTS).exists():
        raise UsageError(f"{folder} holds a finished run: choose another `output`, or remove it")
    if not (folder / STATE).exists():
        if others := _contents(folder):
            raise UsageError(f"{folder} is not empty and not a run (it has {others[0]}): choose another `output`")
        return RunFolder(folder, meta)
    try:
        same = _same(folder, meta)
    except FailedError as error:
        raise FailedError(f"{folder / STATE} is damaged: remove {folder}, or choose another `output`") from error
    if not same:
        what = "an unfinished run with other settings or images"
        raise UsageError(f"{folder} holds {what}: choose another `output`, or remove it")
    tensors, stored = load_tensors(folder / STATE)
    return RunFolder(folder, meta, tensors, stored[PROGRESS])
