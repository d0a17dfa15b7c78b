"""The run folder: found or made, claimed for one process, and `runs/latest` pointing to the newest finished one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from attri.runtime.errors import FailedError, UsageError
from attri.train.checkpoint import load_tensors, save_tensors

RUNS = Path("runs")
STATE, PROMPT = "state.safetensors", "prompt.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """A claimed folder. state: the tensors of an unfinished run with the same settings, empty for a new one."""

    path: Path
    meta: dict[str, Any]
    state: dict[str, Tensor]
    history: list[dict[str, Any]]

    def save_state(self, tensors: dict[str, Tensor], history: list[dict[str, Any]]) -> None:
        save_tensors(self.path / STATE, tensors, {**self.meta, "history": history})
        self.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def finish(self, prompt: dict[str, Tensor], results: dict[str, Any]) -> None:
        """Results first, the prompt last: a folder with a prompt is complete."""
        self.write("results.json", json.dumps(results, indent=2) + "\n")
        save_tensors(self.path / PROMPT, prompt, self.meta)
        (self.path / STATE).unlink(missing_ok=True)
        self.point_latest()

    def write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise FailedError(f"cannot write {self.path / name}: {error.strerror}") from error

    def point_latest(self) -> None:
        """runs/latest -> this run, replaced in one step; a run elsewhere (--output) is pointed to as well."""
        RUNS.mkdir(exist_ok=True)
        link = RUNS / f".latest.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(self.path, RUNS))
        link.replace(RUNS / "latest")


@contextmanager
def claim(output: Path | None, name: str, meta: dict[str, Any]) -> Iterator[RunFolder]:
    """Claim `output`, or the first folder runs/NAME-1, -2, ... that is free or holds this very run unfinished.

    Raises:
        UsageError: `output` holds something else.
        FailedError: `output` is in use by another process, or cannot be written.
    """
    try:
        folder, lock = (_numbered(name, meta), None) if output is None else (output, _lock(output))
    except OSError as error:
        raise FailedError(f"cannot write the run folder {output or RUNS}: {error.strerror}") from error
    if isinstance(folder, tuple):
        folder, lock = folder
    if lock is None:
        raise FailedError(f"another attri-train is at work in {folder}: wait for it or choose another --output")
    try:
        yield _open(folder, meta)
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.close()


def _numbered(name: str, meta: dict[str, Any]) -> tuple[Path, IO[str]]:
    for number in count(1):
        folder = RUNS / f"{name}-{number}"
        if (folder / PROMPT).exists():
            continue
        lock = _lock(folder)
        if lock is not None:
            if not (folder / STATE).exists() or _same(folder, meta):
                return folder, lock
            lock.close()
    raise AssertionError("count() does not end")


def _lock(folder: Path) -> IO[str] | None:
    """An exclusive lock that dies with the process, or None when another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _same(folder: Path, meta: dict[str, Any]) -> bool:
    stored = dict(load_tensors(folder / STATE)[1])
    stored.pop("history", None)
    return bool(stored == json.loads(json.dumps(meta)))


def _open(folder: Path, meta: dict[str, Any]) -> RunFolder:
    if (folder / PROMPT).exists():
        raise UsageError(f"{folder} holds a finished run: choose another --output, or remove it")
    if not (folder / STATE).exists():
        others = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if others:
            raise UsageError(f"{folder} is not empty and not a run (it has {others[0]}): choose another --output")
        return RunFolder(folder, meta, {}, [])
    if not _same(folder, meta):
        raise UsageError(f"{folder} holds an unfinished run with other settings: choose another --output, or remove it")
    tensors, stored = load_tensors(folder / STATE)
    return RunFolder(folder, meta, tensors, stored["history"])
