"""The bundle: a folder that can be copied to a device. Nothing in it is used before it is verified.

    manifest.json         what the model is, what the graphs expect, and every other file with its size and sha256
    vision.onnx           pixels float32 [B, 3, H, W] -> image_features float32 [B, D], retrieved int32 [B, L, M]
    text.onnx             retrieved, stem float32 [P, W], own float32 [C, T, W], lengths int32 [C]
                          -> text_features float32 [B, C, D]
    token_embedding.npy   float16 or float32 [49408, W], read with mmap: a label touches a handful of its rows
    merges.txt.gz         the tokenizer's merges
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import BundleError

SCHEMA = 1
MANIFEST, VISION, TEXT, EMBEDDING, MERGES = (
    "manifest.json",
    "vision.onnx",
    "text.onnx",
    "token_embedding.npy",
    "merges.txt.gz",
)
RESIZE = "shorter side to size, Pillow bicubic with antialias; centre crop; RGB"


@dataclass(frozen=True)
class Manifest:
    """What stands in manifest.json, by the same names."""

    schema: int
    attri: str  # version that wrote it
    created: str  # UTC, ISO 8601
    model: dict[str, str]  # name, pretrained, sha256 of the weights
    image: dict[str, Any]  # size in pixels, mean, std, resize
    text: dict[str, Any]  # template, context_length, width
    logit_scale: float  # the factor of the cosine, already exponentiated
    retrieval: dict[str, Any]  # depth L, retrieved M, and how they came about
    precision: str  # fp32 or fp16
    opset: int
    labels: list[str]  # default labels: the classes of the training
    temperature: float  # logits are divided by it; 1 is uncalibrated
    threshold: float | None  # scores below it are "none of these"; None never rejects
    parity: dict[str, Any]  # figures, gates, and whether each held
    files: dict[str, dict[str, Any]] = field(repr=False)  # size in bytes and sha256 of each other file

    def to_json(self) -> str:
        return json.dumps(self.__dict__, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read and verify a bundle.

        Raises:
            BundleError: it is missing, incomplete, changed, of a newer schema, or names files outside itself.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            _verify(path, name, entry)
        return cls(path, manifest)

    def file(self, name: str) -> Path:
        return self.path / name

    def token_embedding(self) -> NDArray[Any]:
        """[49408, W], mapped and not read."""
        table: NDArray[Any] = np.load(self.file(EMBEDDING), mmap_mode="r", allow_pickle=False)
        return table


def read_manifest(path: Path) -> Manifest:
    """The manifest alone, without verifying other files. Raises BundleError."""
    file = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"no bundle at {path}: run attri-export, or name one with --bundle")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle, it has no {MANIFEST}: run attri-export") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read ({error}): export the bundle again") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int):
        raise BundleError(f"{file} is not a manifest of attri: export the bundle again")
    if schema > SCHEMA:
        raise BundleError(f"{path} has schema {schema}, this attri reads up to {SCHEMA}: update attri on this machine")
    try:
        return Manifest(**raw)
    except TypeError as error:
        raise BundleError(f"{file} has missing or unknown fields: export the bundle again") from error


def file_entry(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as the manifest keeps them."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def _verify(path: Path, name: str, entry: dict[str, Any]) -> None:
    pure = PurePosixPath(name)
    file = path / name
    if pure.is_absolute() or ".." in pure.parts or not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{path} names a file outside itself ({name}): do not use it")
    if not file.is_file():
        raise BundleError(f"{path} is incomplete, {name} is missing: copy or export it again")
    if file.stat().st_size != entry["size"] or file_entry(file) != entry:
        raise BundleError(f"{file} is not the file that was exported (size or sha256 differs): copy or export it again")
