"""Bundles appear whole or not at all: written to a sibling folder, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from attri.runtime import tokenizer
from attri.runtime.bundle import MANIFEST, MERGES
from attri.runtime.errors import FailedError, UsageError

EMBEDDING_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.float16}


def check_target(path: Path) -> None:
    """Only a bundle may be replaced. Raises UsageError."""
    if path.exists() and not (path / MANIFEST).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} exists and is not a bundle: choose another --output, or remove it")


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its name when the block succeeds and vanishes when it does not."""
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except OSError as error:
        raise FailedError(f"cannot write to {parent}: {error.strerror}") from error
    try:
        yield folder
        folder.chmod(0o755)
        swap(folder, path)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def swap(folder: Path, path: Path) -> None:
    """`folder` takes the place of `path`. A folder cannot be renamed over a full one: the old one steps aside first."""
    old = folder.with_name(folder.name + ".old")
    if path.exists():
        path.rename(old)
    try:
        folder.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def save_embedding(table: Tensor, path: Path, precision: str) -> None:
    np.save(path, table.detach().cpu().numpy().astype(EMBEDDING_DTYPES[precision]), allow_pickle=False)


def copy_merges(path: Path) -> None:
    shutil.copyfile(Path(tokenizer.__file__).with_name(MERGES), path)
