"""Atomic bundle writing: a bundle is written to a sibling folder, which is renamed when it is complete."""

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
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from attri.export.graph.signature import signature_of
from attri.runtime import tokenizer
from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime.bundle import (
    ENGINES,
    MANIFEST,
    MERGES,
    PROMPT,
    SCHEMA,
    TOKENIZER,
    Bundle,
    Manifest,
    Precision,
    file_entry,
    save_manifest,
)
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.prompt import Prompt
from attri.runtime.text.reader import TextReader
from attri.runtime.text.tokenizer_file import FileTokenizer
from attri.train.model import AttriPrompt

__all__ = [
    "check_target",
    "describe",
    "save",
    "save_embedding",
    "save_tokenizer",
    "shape_of",
    "staging",
    "weights_name",
]

OLD = ".old"  # suffix of the old bundle while it is being replaced
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
EMBEDDING_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.float16}


def check_target(path: Path) -> None:
    """Check that `path` is free, or a bundle (of any schema) that holds nothing else: it will be deleted whole.

    Raises:
        UsageError: something else is there, or a file that the bundle's manifest does not list.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    listed = listed_files(path)
    if listed is None:
        raise UsageError(f"{path} exists and is not a bundle: choose another `output`, or remove it")
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    others = (file for file in files if file.parts[0] != ENGINES and file.as_posix() not in listed)
    if other := next(others, None):
        raise UsageError(
            f"{path} holds {other}, which is not part of the bundle: move it away, or choose another `output`"
        )


def listed_files(path: Path) -> set[str] | None:
    """List the files of a bundle but its engines: the manifest and what it lists; None where `path` is no bundle."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        ours = isinstance(manifest["schema"], int) and isinstance(manifest["attri"], str)
        return {MANIFEST, PROMPT, *manifest["files"]} if ours and isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Give the block a folder beside `path`, which replaces `path` if the block succeeds and is removed if not.

    Raises:
        FailedError: it cannot be written, or another export to `path` is running.
        UsageError: when the block is done, `path` holds something that must not be replaced.
    """
    target = path.resolve()  # a link to a bundle stays a link
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(_lock_of(target))
    except OSError as error:
        raise FailedError(f"cannot write to {path.absolute().parent}: {error.strerror}") from error
    if lock is None:
        raise FailedError(f"another attri-export is writing {path}: wait for it, or choose another `output`")
    try:
        with _writing(path):
            remove_leftovers(target)
            folder = Path(tempfile.mkdtemp(prefix=staging_prefix(target), dir=target.parent))
        with _writing(path, only_below=folder):
            yield folder
        with _writing(path):
            folder.chmod(0o755)
            check_target(path)
            replace_dir(folder, target)
    finally:
        remove_leftovers(target)
        unlock(_lock_of(target), lock)


@contextmanager
def _writing(path: Path, only_below: Path | None = None) -> Iterator[None]:
    """Turn an OSError into a FailedError that says that `path` cannot be written.

    Args:
        path: of the bundle, for the message.
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


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.attri.lock")


def staging_prefix(path: Path) -> str:
    """Prefix of the names of folders that an export makes beside its bundle."""
    return f".{path.name}.attri-"


def remove_leftovers(path: Path) -> None:
    """Remove folders that this export, or a killed one, left beside `path`; restore an old bundle that was moved away.

    Call it under the lock: the folder of a running export looks the same.
    """
    for left in path.parent.glob(f"{glob.escape(staging_prefix(path))}*"):
        if left.suffix == OLD and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def replace_dir(folder: Path, path: Path) -> None:
    """Replace the folder `path` by `folder`.

    A folder cannot be renamed over a full one: the old one is moved away first. If that is interrupted between the two
    renames, `remove_leftovers` restores the old one.
    """
    if path.exists():
        path.rename(folder.with_name(folder.name + OLD))
    folder.rename(path)


def save_embedding(table: Tensor, path: Path, precision: Precision) -> None:
    """Write the token embedding [V, W] as float32, or as float16 for fp16 and int8.

    Raises:
        OSError: it cannot be written.
    """
    try:
        np.save(path, table.detach().cpu().numpy().astype(EMBEDDING_DTYPES[precision]), allow_pickle=False)
    except OSError as error:  # of a short write NumPy gives neither the errno nor the file
        raise OSError(error.errno or errno.ENOSPC, error.strerror or str(error), str(path)) from error


def save_tokenizer(reader: TextReader, folder: Path) -> None:
    """Write the tokenizer's file: CLIP's merges, or the model's own tokenizer."""
    if isinstance(reader.tokenizer, FileTokenizer):
        (folder / TOKENIZER).write_bytes(reader.tokenizer.content)
    else:
        shutil.copyfile(Path(tokenizer.__file__).with_name(MERGES), folder / MERGES)


def weights_name(tag: str) -> str:
    """Name the weights in a bundle: by their tag, or a file by its name, without the path on this machine.

    The manifest has their sha256. A file name without a suffix could be a published tag: it is marked by ./
    """
    name = Path(tag).name
    return name if name == tag or Path(name).suffix else f"./{name}"


def describe(model: AttriPrompt, precision: Precision, opset: int) -> Manifest:
    """Make the manifest, still without the figures of its arithmetic and parity, and without files."""
    backbone = model.backbone
    return Manifest(
        schema=SCHEMA,
        attri=version("attri"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model={"name": backbone.public_name, "pretrained": weights_name(backbone.tag), "sha256": backbone.sha256},
        image=backbone.preprocess().to_dict(),
        text={
            "context_length": backbone.context_length,
            "width": int(backbone.token_embedding.shape[1]),
            "causal": backbone.reader.causal,
            "pooled": backbone.reader.pooled,
            "clean": backbone.reader.clean,
        },
        logit_scale=backbone.logit_scale,
        logit_bias=backbone.logit_bias,
        retrieval={
            **shape_of(model),
            "retrieved": model.config.retrieved,
        },
        precision=precision,
        arithmetic={},
        opset=opset,
        graphs={},
        parity={},
        files={},
    )


def shape_of(model: AttriPrompt) -> dict[str, Any]:
    """What of a prompt's shape is fixed in the graphs, by names of `Manifest.retrieval`."""
    config = model.config
    return {
        "depth": model.depth,
        "sources": model.vision.sources,
        "clusters": config.clusters,
        "topk": config.topk,
        "prompt_length": config.prompt_length,
        "static_tokens": config.static_tokens,
    }


def save(bundle: Bundle) -> None:
    """Write the prompt, which names its base, and the manifest, which lists all other files and is the last."""
    folder = bundle.path
    files = {file.name: file_entry(file) for file in sorted(folder.iterdir())}
    graphs = {file.name: signature_of(onnx.load(file)).to_dict() for file in sorted(folder.glob("*.onnx"))}
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs, files=files)
    facts = dataclasses.replace(bundle.prompt.facts, base=manifest.base)
    Prompt.of(facts, bundle.prompt.tensors, bundle.prompt.training_images).save(folder / PROMPT)
    save_manifest(manifest, folder)
