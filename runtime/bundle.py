"""The bundle: a folder that can be copied to a device. Nothing in it is used before it is verified.

manifest.json         what the model is, what the graphs expect, and every other file with its size and sha256
vision.onnx           pixels float32 [B, 3, H, W]
                      -> image_features float32 [B, D], retrieved int32 [B, L, M], scores float32 [B, L, K, N]
text.onnx             retrieved, and labels (`attri.runtime.prompts.LabelTokens`): stem float32 [P, W], own float32
                      [R, W], places int32 [R], slots int32 [C, T], cells int32 [R], last int32 [C]
                      -> text_features float32 [B, C, D]
token_embedding.npy   float16 or float32 [49408, W], read with mmap: a label touches a handful of its rows
merges.txt.gz         the tokenizer's merges
check.npz             a few pictures with what the PyTorch model made of them: TensorRT's engines are held against it
parity.json           how far the bundle is from the PyTorch model, picture by picture; the runtime does not read it
report.html           the same to read, and the model card

An int8 bundle holds its graphs twice, since the runtimes want different integers, and `Bundle.graph` picks:
vision.onnx, text.onnx           U8S8 for ONNX Runtime: uint8 activations with a zero point, 7-bit weights
vision.s8.onnx, text.s8.onnx     S8S8 for TensorRT: int8 activations and weights around zero
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import BundleError

SCHEMA = 2  # 1 had text graphs that read padded labels
MANIFEST, VISION, TEXT, EMBEDDING, MERGES = (
    "manifest.json",
    "vision.onnx",
    "text.onnx",
    "token_embedding.npy",
    "merges.txt.gz",
)
CHECK = "check.npz"
ENGINES = "engines"  # folder of TensorRT's
FILES = (VISION, TEXT, EMBEDDING, MERGES)
SYMMETRIC = {VISION: "vision.s8.onnx", TEXT: "text.s8.onnx"}
PRECISIONS = ("fp32", "fp16", "int8")
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
    precision: str  # fp32, fp16 or int8
    arithmetic: dict[str, Any]  # for each graph, how much of it computes in that precision, and what was left out
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
        """Read and verify a bundle. Its engines are not looked at: each is verified where it is loaded.

        Raises:
            BundleError: it is missing, incomplete, changed, of another schema, or names files outside itself.
        """
        path = Path(path)
        manifest = read_manifest(path)
        wanted = FILES + tuple(SYMMETRIC.values()) * (manifest.precision == "int8")
        if unlisted := [name for name in wanted if name not in manifest.files]:
            raise BundleError(f"{path / MANIFEST} does not list {', '.join(unlisted)}: export the bundle again")
        for name, entry in manifest.files.items():
            if not name.startswith(f"{ENGINES}/"):  # they are rebuilt at will, and another machine's are of no use
                _verify(path, name, entry)
        return cls(path, manifest)

    def file(self, name: str) -> Path:
        return self.path / name

    def graph(self, name: str, backend: str = "onnxruntime") -> Path:
        """VISION or TEXT as "onnxruntime" or "tensorrt" wants it."""
        symmetric = self.manifest.precision == "int8" and backend == "tensorrt"
        return self.file(SYMMETRIC[name] if symmetric else name)

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
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read ({error}): export the bundle again") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int):
        raise BundleError(f"{file} is not a manifest of attri: export the bundle again")
    if schema > SCHEMA:
        raise BundleError(f"{path} has schema {schema}, this attri reads up to {SCHEMA}: update attri on this machine")
    if schema < SCHEMA:
        raise BundleError(f"{path} has schema {schema}, of an older attri; this one reads {SCHEMA}: export it again")
    known = {each.name for each in fields(Manifest)}
    if odd := known ^ raw.keys():
        raise BundleError(f"{file} has missing or unknown fields ({', '.join(sorted(odd))}): export the bundle again")
    manifest = Manifest(**raw)
    if bad := [name for name, right in _checks(manifest).items() if not right]:
        raise BundleError(f"{file} has unusable values ({', '.join(bad)}): export the bundle again")
    return manifest


def _checks(manifest: Manifest) -> dict[str, bool]:
    """Whether each field that the runtime relies on can be used."""
    image, text, files = manifest.image, manifest.text, manifest.files
    tables = {name: isinstance(getattr(manifest, name), dict) for name in ("model", "arithmetic", "parity")}
    return tables | {
        "image": isinstance(image, dict)
        and _is_count(image.get("size"))
        and _is_colour(image.get("mean"))
        and _is_colour(image.get("std"))
        and all(map(_is_number, image["std"])),
        "text": isinstance(text, dict)
        and isinstance(text.get("template"), str)
        and text["template"].count("{}") == 1
        and _is_count(text.get("context_length")),
        "precision": manifest.precision in PRECISIONS,
        "logit_scale": _is_number(manifest.logit_scale),
        "retrieval": isinstance(manifest.retrieval, dict)
        and all(_is_count(manifest.retrieval.get(key)) for key in ("depth", "retrieved", "pool_size", "topk")),
        "labels": isinstance(manifest.labels, list) and all(isinstance(label, str) for label in manifest.labels),
        "temperature": _is_number(manifest.temperature),
        "threshold": manifest.threshold in (None, 0) or _is_number(manifest.threshold),
        "files": isinstance(files, dict) and all(isinstance(entry, dict) for entry in files.values()),
    }


def _is_number(value: object) -> bool:
    """Whether it is one above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_colour(value: object) -> bool:
    """Whether it is a list with a number for each of R, G, B."""
    numbers = [each for each in value if type(each) in (int, float)] if isinstance(value, list) else []
    return len(numbers) == 3 and all(abs(each) < math.inf for each in numbers)


def file_entry(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as the manifest keeps them."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def save_manifest(manifest: Manifest, folder: Path) -> None:
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(manifest.to_json(), encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def _verify(path: Path, name: str, entry: dict[str, Any]) -> None:
    pure = PurePosixPath(name)
    file = path / name
    try:
        inside = not pure.is_absolute() and ".." not in pure.parts and file.resolve().is_relative_to(path.resolve())
        if not inside:
            raise BundleError(f"{path} names a file outside itself ({name!r}): do not use it")
        if not file.is_file():
            raise BundleError(f"{path} is incomplete, {name!r} is missing: copy or export it again")
        same = file.stat().st_size == entry.get("size") and file_entry(file) == entry
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a NUL in the name, a loop of links
        raise BundleError(f"{path}: {name!r} cannot be read: copy or export it again") from error
    if not same:
        raise BundleError(f"{file} is not the file that was exported (size or sha256 differs): copy or export it again")
