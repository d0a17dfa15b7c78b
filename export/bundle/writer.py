"""Bundles appear whole or not at all: written to a sibling folder, then renamed."""

from __future__ import annotations

import dataclasses
import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from attri.runtime import bundle, tokenizer
from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime.bundle import MANIFEST, MERGES, RESIZE, SCHEMA, Manifest, file_entry
from attri.runtime.errors import FailedError, UsageError
from attri.train.model import AttriPrompt

OLD = ".old"  # behind the name of what a bundle is replaced by, while it steps aside
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
EMBEDDING_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.float16}


def check_target(path: Path) -> None:
    """Only a bundle may be replaced, of any schema, and only one that holds nothing else: it is deleted whole.

    Raises:
        UsageError: something else is there, or a file that the bundle's manifest does not list.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    listed = listed_files(path)
    if listed is None:
        raise UsageError(f"{path} exists and is not a bundle: choose another --output, or remove it")
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    others = (file for file in files if file.parts[0] != bundle.ENGINES and file.as_posix() not in listed)
    if other := next(others, None):
        raise UsageError(f"{path} holds {other}, which is not of the bundle: move it away, or choose another --output")


def listed_files(path: Path) -> set[str] | None:
    """What a bundle may hold beside its engines: its manifest, and what that lists; None where it is no bundle."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        ours = isinstance(manifest["schema"], int) and isinstance(manifest["attri"], str)
        return {MANIFEST, *manifest["files"]} if ours and isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its name when the block succeeds and vanishes when it does not.

    Raises:
        FailedError: it cannot be written, or another export to `path` is under way.
        UsageError: when the block is done, what is at `path` is no longer what may be replaced.
    """
    target = path.resolve()  # a link to a bundle stays a link
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(lock_of(target))
    except OSError as error:
        raise FailedError(f"cannot write to {path.absolute().parent}: {error.strerror}") from error
    if lock is None:
        raise FailedError(f"another attri-export writes {path}: wait for it, or choose another --output")
    try:
        with writing(path):
            sweep(target)
            folder = Path(tempfile.mkdtemp(prefix=prefix(target), dir=target.parent))
        with writing(path, only_below=folder):
            yield folder
        with writing(path):
            folder.chmod(0o755)
            check_target(path)
            swap(folder, target)
    finally:
        sweep(target)
        unlock(lock_of(target), lock)


@contextmanager
def writing(path: Path, only_below: Path | None = None) -> Iterator[None]:
    """Turn an OSError into a FailedError that says that `path` cannot be written.

    Args:
        only_below: leave errors alone that are not about writing files of this folder.
    """
    try:
        yield
    except OSError as error:
        if only_below is not None and not _about_writing(error, only_below):
            raise
        raise FailedError(f"cannot write {path}: {error.strerror or error}") from error


def _about_writing(error: OSError, folder: Path) -> bool:
    if error.filename is None:  # as of a write to an open file
        return error.errno in WRITE_ERRORS
    return folder in Path(os.fsdecode(error.filename)).parents


def lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.attri.lock")


def prefix(path: Path) -> str:
    """Of the names of folders that an export makes beside its bundle."""
    return f".{path.name}.attri-"


def sweep(path: Path) -> None:
    """Clear away what exports left beside `path`, this one or one that died; a bundle that stepped aside comes back.

    Only under the lock: what others are writing looks the same.
    """
    for left in path.parent.glob(f"{glob.escape(prefix(path))}*"):
        if left.suffix == OLD and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def swap(folder: Path, path: Path) -> None:
    """`folder` takes the place of `path`. A folder cannot be renamed over a full one: the old one steps aside first.

    Whatever stops it between the two, `sweep` brings the old one back.
    """
    if path.exists():
        path.rename(folder.with_name(folder.name + OLD))
    folder.rename(path)


def save_embedding(table: Tensor, path: Path, precision: str) -> None:
    try:
        np.save(path, table.detach().cpu().numpy().astype(EMBEDDING_DTYPES[precision]), allow_pickle=False)
    except OSError as error:  # a short write, of which NumPy tells neither the errno nor the file
        raise OSError(error.errno or errno.ENOSPC, error.strerror or str(error), str(path)) from error


def copy_merges(path: Path) -> None:
    shutil.copyfile(Path(tokenizer.__file__).with_name(MERGES), path)


def weights_name(tag: str) -> str:
    """What a bundle says of its weights: their tag, or of a file its name, since the path is this machine's business.

    The sha256 tells which they are. Without a suffix a name could be a published tag: a ./ says that it is a file.
    """
    name = Path(tag).name
    return name if name == tag or Path(name).suffix else f"./{name}"


def describe(model: AttriPrompt, labels: list[str], template: str, precision: str, opset: int) -> Manifest:
    """The manifest, still without figures of its arithmetic and parity, and without files."""
    backbone, config = model.backbone, model.config
    preprocess = backbone.preprocess()
    return Manifest(
        schema=SCHEMA,
        attri=version("attri"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model={"name": backbone.name, "pretrained": weights_name(backbone.tag), "sha256": backbone.sha256},
        image={"size": preprocess.size, "mean": preprocess.mean, "std": preprocess.std, "resize": RESIZE},
        text={
            "template": template,
            "context_length": backbone.context_length,
            "width": int(backbone.token_embedding.shape[1]),
        },
        logit_scale=backbone.logit_scale,
        retrieval={
            "depth": model.depth,
            "retrieved": config.retrieved,
            "clusters": config.clusters,
            "topk": config.topk,
            "pool_size": config.pool_size,
            "prompt_length": config.prompt_length,
            "static_tokens": config.static_tokens,
            "sources": model.vision.sources,
        },
        precision=precision,
        arithmetic={},
        opset=opset,
        labels=labels,
        temperature=1.0,
        threshold=None,
        parity={},
        files={},
    )


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """The last file of a bundle: it lists what else is there."""
    files = {file.name: file_entry(file) for file in sorted(folder.iterdir())}
    bundle.save_manifest(dataclasses.replace(manifest, files=files), folder)
