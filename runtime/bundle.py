"""The bundle: a folder that can be copied to a device. Nothing in it is used before it is verified.

manifest.json         what the model is, what the graphs expect, every other file with its size and sha256, and a
                      sha256 of all that
vision.onnx           pixels float32 [B, 3, H, W] and of the prompt keys float32 [L, D, N]
                      -> image_features float32 [B, D], retrieved int32 [B, L, M], scores float32 [B, L, K, N]
text.onnx             retrieved; of the prompt prompt_table float32 [L, N, p, 2 W] and, with static tokens, static_table
                      float32 [L, q, 2 W]; and labels (`LabelTokens`): prefix float32 [P, W], suffix_tokens float32
                      [R, W], suffix_positions int32 [R], token_rows int32 [C, T], scatter_index int32 [R], eot_rows
                      int32 [C]
                      -> text_features float32 [B, C, D]
label.onnx            only where the text tower is not causal, whose text.onnx takes other labels: states float32
                      [C, T, W] of all T tokens of a label before the first prompted block, and pooled_rows int32 [C].
                      This graph computes them, once for each label: tokens float32 [C, T, W] -> states
explain.onnx          only where it was asked for (attri-export --explain), and float32 in every precision: pixels ->
                      patches float32 [B, h, w, D] and rest float32 [B, D], which add up to the image feature before it
                      is made a unit vector. It is loaded to explain, and for nothing else
token_embedding.npy   float16 or float32 [V, W], read with mmap: a label touches a handful of its rows
merges.txt.gz         the tokenizer's merges, of CLIP's vocabulary
tokenizer.json        in its place, of a model with a vocabulary of its own (SigLIP)
reference.npz         a few images with what the PyTorch model made of them, and the prompt that it had: what runs the
                      graphs is held against it
prompt.attri          the prompt that was trained (`attri.runtime.prompt`): the one part that is not of the base, is not
                      listed in the manifest, and may be replaced
parity.json           how far the bundle is from the PyTorch model, image by image; the runtime does not read it
report.html           the same to read, and the model card

An int8 bundle holds its graphs twice, since the runtimes want different integers, and `Bundle.graph` picks:
vision.onnx, text.onnx           U8S8 for ONNX Runtime: uint8 activations with a zero point, 7-bit weights
vision.s8.onnx, text.s8.onnx     S8S8 for TensorRT: int8 activations and weights around zero
label.onnx, which runs once for a label, stays float32.

What was verified is held open and read by what is held, so that a folder that is replaced meanwhile gives one bundle
whole, the old or the new.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.atomic import write_file
from attri.runtime._util.held_files import HeldFiles, entry_of
from attri.runtime.errors import BundleError, BundleNotFoundError
from attri.runtime.preprocess import INTERPOLATIONS, RESIZES, Preprocess
from attri.runtime.prompt import Prompt

SCHEMA = 6  # 5 had one way to read text, and no logit bias
MANIFEST, VISION, TEXT, LABEL = "manifest.json", "vision.onnx", "text.onnx", "label.onnx"
EXPLAIN = "explain.onnx"
EMBEDDING, MERGES, TOKENIZER = "token_embedding.npy", "merges.txt.gz", "tokenizer.json"
REFERENCE, PROMPT = "reference.npz", "prompt.attri"
ENGINES = "engines"  # folder of TensorRT's
FILES = (VISION, TEXT, EMBEDDING, MERGES, REFERENCE)  # of a causal model with CLIP's vocabulary
DIGEST = "sha256"  # the manifest's own, of everything else in it
TRIES, PAUSE = 5, 0.05  # of opening a folder that changes under it; seconds between them
SYMMETRIC = {VISION: "vision.s8.onnx", TEXT: "text.s8.onnx"}
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PROMPT_SHAPE = ("depth", "sources", "clusters", "topk", "prompt_length", "static_tokens")  # that is fixed in the graphs
IMAGE = frozenset(field.name for field in fields(Preprocess))
TEXT_FIELDS = frozenset(("context_length", "width", "causal", "pooled", "clean"))
Pooled = Literal["eot", "last"]  # which token becomes the text feature, where a text tower is not causal
POOLED: tuple[Pooled, ...] = get_args(Pooled)
Clean = Literal["canonicalize", "lower", "whitespace"]  # what is done to words before a tokenizer of the model's own
CLEANS: tuple[Clean, ...] = get_args(Clean)


@dataclass(frozen=True)
class Manifest:
    """What stands in manifest.json, by the same names."""

    schema: int
    attri: str  # version that wrote it
    created: str  # UTC, ISO 8601
    model: dict[str, str]  # name, pretrained, sha256 of the weights
    image: dict[str, Any]  # the fields of `Preprocess`
    text: dict[str, Any]  # context_length, width, causal, pooled and clean of `attri.runtime.text.reader.TextReader`
    logit_scale: float  # the factor of the cosine, already exponentiated
    logit_bias: float  # added after it; 0 where the model has none. It matters to sigmoid scores alone
    retrieval: dict[str, Any]  # depth L, retrieved M, and how they came about; not the entries, N, which are a prompt's
    precision: Precision
    arithmetic: dict[str, Any]  # for each graph, how much of it computes in that precision, and what was left out
    opset: int
    graphs: dict[str, Any]  # of each ONNX file its inputs and outputs: name, dtype and dims of each
    parity: dict[str, Any]  # figures, gates, and whether each held, with the prompt of the export
    files: dict[str, dict[str, Any]] = field(repr=False)  # size in bytes and sha256 of each other file

    @property
    def graph_files(self) -> tuple[str, ...]:
        """The graphs that are run: VISION, TEXT, and LABEL of a text tower that is not causal."""
        return (VISION, TEXT) if self.text["causal"] else (VISION, TEXT, LABEL)

    @property
    def required_files(self) -> set[str]:
        """The files that the runtime reads."""
        of_words = MERGES if self.text["clean"] is None else TOKENIZER
        symmetric = SYMMETRIC.values() if self.precision == "int8" else ()
        return {*self.graph_files, EMBEDDING, of_words, REFERENCE, *symmetric}

    @property
    def base(self) -> dict[str, Any]:
        """What a prompt must have been made for: bundles with an equal base take each other's prompts."""
        shape = {key: self.retrieval[key] for key in PROMPT_SHAPE}
        graphs = {name: self.files[name]["sha256"] for name in self.graph_files}
        model = {"model": self.model["name"], "weights": self.model["sha256"]}
        return {**model, "precision": self.precision, **shape, **graphs}

    def require_prompt(self, prompt: Prompt, name: str = "the prompt") -> None:
        """Check that a prompt was made for these graphs, and that its tensors are what they take.

        Args:
            prompt: any prompt.
            name: what messages call it.

        Raises:
            BundleError: names what differs.
        """
        prompt.require_fit(self.base, name)
        inputs = {each["name"]: each["dims"] for graph in (VISION, TEXT) for each in self.graphs[graph]["inputs"]}
        for tensor, array in prompt.tensors.items():
            dims = inputs.get(tensor, [])
            fits = len(dims) == array.ndim and all(
                isinstance(dim, str) or dim == size for dim, size in zip(dims, array.shape, strict=True)
            )
            if not fits:
                wanted = "x".join(map(str, dims)) or "none"
                raise BundleError(f"{name} has {tensor} {'x'.join(map(str, array.shape))}, the graphs take {wanted}")

    def to_json(self) -> str:
        """The text of manifest.json, with the digest of all other fields."""
        signed = {**self.__dict__, DIGEST: manifest_digest(self.__dict__)}
        return json.dumps(signed, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def manifest_digest(raw: Mapping[str, Any]) -> str:
    """sha256 of a manifest's fields but this one, whatever its layout.

    It tells damage and edits by hand. It is no signature: whoever edits on purpose can compute it again.
    """
    rest = {name: value for name, value in raw.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: Where it was opened, for messages and for its engines; something else may be there by now.
        manifest: What stands in its manifest.json.
        prompt: The one that lies in it.
        held: Its files, open; None while it is being written, and they are read by their paths.
    """

    path: Path
    manifest: Manifest
    prompt: Prompt
    held: HeldFiles | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read and verify a bundle, and hold its files.

        Its engines are not looked at: each is verified where it is loaded. A folder that changes meanwhile is tried
        again a few times.

        Raises:
            BundleNotFoundError: no bundle is there.
            BundleError: it is incomplete, changed, of another schema, or names files outside itself.
        """
        path = Path(path)
        for _ in range(TRIES):
            before = _snapshot(path)
            try:
                return cls._open(path)
            except BundleError as error:
                problem = error
            if before is not None and _snapshot(path) == before:
                raise problem
            time.sleep(PAUSE)
        if before is None:
            raise problem
        raise BundleError(f"{path} is being replaced: try again when that is done ({problem})")

    @classmethod
    def _open(cls, path: Path) -> Bundle:
        try:
            held = HeldFiles(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleNotFoundError(f"no bundle at {path}: run attri-export, or name another") from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be opened: {error}") from error
        try:
            manifest = _read_manifest(held.folder, path)
            if unlisted := sorted(manifest.required_files - manifest.files.keys()):
                raise BundleError(f"{path / MANIFEST} does not list {', '.join(unlisted)}: export the bundle again")
            for name, entry in manifest.files.items():
                if not _is_engine(name):  # they are rebuilt at will, and another machine's are of no use
                    _verify(held, path, name, entry)
            prompt = _read_prompt(held.folder, path)
            manifest.require_prompt(prompt, f"{path / PROMPT}")
        except BaseException:
            held.close()
            raise
        return cls(path, manifest, prompt, held)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go: what was loaded stays, nothing more is read."""
        if self.held is not None:
            self.held.close()

    @property
    def folder(self) -> Path:
        """The folder that was opened, also where `path` is another by now."""
        return self.path if self.held is None else self.held.folder

    def file(self, name: str) -> Path:
        """Where to read a file: of an open bundle a path to what was verified, whatever lies at `path` by now.

        Engines are found by `path`: they come and go.

        Raises:
            BundleError: the manifest does not list it.
        """
        if self.held is None or _is_engine(name):
            return self.path / name
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no {name}: export it again")
        return self.held.path(name)

    def graph_name(self, name: str, *, tensorrt: bool = False) -> str:
        """Of one of `graph_files`, the file for ONNX Runtime's own kernels, or for TensorRT."""
        return SYMMETRIC.get(name, name) if self.manifest.precision == "int8" and tensorrt else name

    @property
    def graph_files(self) -> tuple[str, ...]:
        """As of the manifest."""
        return self.manifest.graph_files

    def graph(self, name: str, *, tensorrt: bool = False) -> Path:
        """Where to read that file. Its path says nothing of its name."""
        return self.file(self.graph_name(name, tensorrt=tensorrt))

    def preprocess(self) -> Preprocess:
        """What turns an image into the input of the vision graph."""
        image = self.manifest.image
        return Preprocess(**image | {"mean": tuple(image["mean"]), "std": tuple(image["std"])})

    def token_embedding(self) -> NDArray[Any]:
        """[V, W], mapped and not read."""
        table: NDArray[Any] = np.load(self.file(EMBEDDING), mmap_mode="r", allow_pickle=False)
        return table

    def require_unchanged(self) -> None:
        """Raises BundleError where a file was written to in place since it was verified, and may be mixed."""
        if self.held is not None and (changed := self.held.changed()):
            raise BundleError(f"{self.path} was written to while it was read ({', '.join(changed)}): start again")


def read_manifest(path: Path | str) -> Manifest:
    """The manifest alone, without verifying other files. Raises BundleError."""
    path = Path(path)
    if not path.is_dir():
        raise BundleNotFoundError(f"no bundle at {path}: run attri-export, or name another")
    return _read_manifest(path, path)


def _read_manifest(folder: Path, path: Path) -> Manifest:
    """path: what messages call the folder."""
    file = path / MANIFEST
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        digest = manifest_digest(raw) if isinstance(raw, dict) else ""
    except FileNotFoundError as error:
        raise BundleNotFoundError(f"{path} is not a bundle, it has no {MANIFEST}: run attri-export") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{file} cannot be read ({reason}): export the bundle again") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int):
        raise BundleError(f"{file} is not a manifest of attri: export the bundle again")
    if schema > SCHEMA:
        raise BundleError(f"{path} has schema {schema}, this attri reads up to {SCHEMA}: update attri on this machine")
    if schema < SCHEMA:
        raise BundleError(f"{path} has schema {schema}, of an older attri; this one reads {SCHEMA}: export it again")
    known = {DIGEST, *(each.name for each in fields(Manifest))}
    if odd := known ^ raw.keys():
        raise BundleError(f"{file} has missing or unknown fields ({', '.join(sorted(odd))}): export the bundle again")
    if raw.pop(DIGEST) != digest:
        raise BundleError(f"{file} is not the one that was exported (sha256 differs): copy or export the bundle again")
    manifest = Manifest(**raw)
    if bad := [name for name, right in _checks(manifest).items() if not right]:
        raise BundleError(f"{file} has unusable values ({', '.join(bad)}): export the bundle again")
    return manifest


def _checks(manifest: Manifest) -> dict[str, bool]:
    """Whether each field that the runtime relies on can be used."""
    image, text, files = manifest.image, manifest.text, manifest.files
    tables = {name: isinstance(getattr(manifest, name), dict) for name in ("model", "arithmetic", "graphs", "parity")}
    return tables | {
        "model": isinstance(manifest.model, dict)
        and all(isinstance(manifest.model.get(key), str) for key in ("name", "sha256")),
        "image": isinstance(image, dict)
        and image.keys() == IMAGE
        and image["resize"] in RESIZES
        and image["interpolation"] in INTERPOLATIONS
        and _is_count(image.get("size"))
        and _is_colour(image.get("mean"))
        and _is_colour(image.get("std"))
        and all(map(_is_number, image["std"])),
        "text": isinstance(text, dict)
        and text.keys() == TEXT_FIELDS
        and _is_count(text["context_length"])
        and isinstance(text["causal"], bool)
        and text["pooled"] in POOLED
        and (text["clean"] is None or (text["clean"] in CLEANS and not text["causal"])),
        "precision": manifest.precision in PRECISIONS,
        "logit_scale": _is_number(manifest.logit_scale),
        "logit_bias": type(manifest.logit_bias) in (int, float) and math.isfinite(manifest.logit_bias),
        "retrieval": isinstance(manifest.retrieval, dict)
        and all(
            _is_count(manifest.retrieval.get(key))
            for key in ("depth", "retrieved", "clusters", "topk", "prompt_length")
        )
        and type(manifest.retrieval.get("static_tokens")) is int
        and isinstance(manifest.retrieval.get("sources"), list),
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
        return entry_of(stream.fileno())


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest of the bundle in `folder`, atomically.

    Raises:
        OSError: it cannot be written.
    """
    write_file(folder / MANIFEST, manifest.to_json().encode())


def _read_prompt(folder: Path, path: Path) -> Prompt:
    """path: what messages call the folder."""
    place = (path / PROMPT).absolute()
    try:
        with (folder / PROMPT).open("rb") as file:
            return Prompt.load(file, f"{path / PROMPT}", lambda: place.open("rb"))
    except OSError as error:
        raise BundleError(f"{path} has no {PROMPT} that can be read: copy or export it again") from error


def _is_engine(name: str) -> bool:
    return name == ENGINES or name.startswith(f"{ENGINES}/")


def _verify(held: HeldFiles, path: Path, name: str, entry: dict[str, Any]) -> None:
    if "/" in name or name == "..":
        raise BundleError(f"{path} names a file outside itself ({name!r}): do not use it")
    try:
        same = held.hold(name) == entry
    except FileNotFoundError as error:
        raise BundleError(f"{path} is incomplete, {name!r} is missing: copy or export it again") from error
    except (OSError, ValueError) as error:  # no permission, not a file, a NUL in the name
        if getattr(error, "errno", None) == errno.ELOOP:
            raise BundleError(f"{path}: {name!r} is a link, which may lead outside itself: copy the file") from error
        raise BundleError(f"{path}: {name!r} cannot be read: copy or export it again") from error
    if not same:
        raise BundleError(
            f"{path / name} is not the file that was exported (size or sha256 differs): copy or export it again"
        )


def _snapshot(path: Path) -> object:
    """What tells that somebody changed the folder; None where there is none."""
    try:
        with os.scandir(path) as entries:
            stats = [(each.name, each.stat(follow_symlinks=False)) for each in entries if each.name != ENGINES]
    except (OSError, ValueError):
        return None
    return sorted((name, each.st_ino, each.st_size, each.st_mtime_ns) for name, each in stats)
