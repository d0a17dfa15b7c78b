"""A prompt file: all that training learned, about 2 MB, as inputs of the graphs of a bundle.

A bundle's graphs, token embedding and tokenizer belong to the backbone. What was learned on it is data beside them: the
keys and tables of the prompt pool, the labels, and what was fitted to them. So a new prompt needs no new graphs and no
engine build, and several prompts share one bundle.

The file is in the safetensors format:
keys          float32 [L, D, N], unit columns: the keys of N pool entries for each of L prompted text blocks
prompt_table  float32 [L, N, p, 2 W]: keys and values that the p tokens of each entry bring into attention
static_table  float32 [L, q, 2 W]: the same of static tokens, where the model has any
metadata      "attri": the fields of `PromptFacts` as JSON, and a sha256 of them and of these tensors

Where it was asked for, features of the training images stand behind these tensors (`prompt_file.training_images`).
Their sha256 is among the facts, so that they need not be read with the rest.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.atomic import write_file
from attri.runtime.errors import BundleError
from attri.runtime.prompt_file.facts import (
    HOLDS,
    IndependentScores,
    PromptFacts,
    Selection,
    from_json_values,
    to_json_values,
    unusable,
)
from attri.runtime.prompt_file.tensor_file import digest_of, pack, read
from attri.runtime.prompt_file.training_images import TrainingImages, is_kept

__all__ = ["HOLDS", "PROMPT_SCHEMA", "IndependentScores", "Prompt", "PromptFacts", "Selection", "short"]

PROMPT_SCHEMA = 1
MAX_BYTES = 1 << 30  # of a file; one of ViT-L-14 with 1,000 entries has 0.2 GB
_ENTRY, _DIGEST = "attri", "sha256"


@dataclass(frozen=True, eq=False)
class Prompt:
    """A learned prompt: `read` one from a file, or take the one of a `Bundle`.

    Attributes:
        facts: labels, template, temperature and the like.
        tensors: read-only arrays by the graphs' names of their inputs; see the module.
        digest: sha256 of facts and tensors, in hexadecimal; it names this prompt.
        training_images: features of the images that it was trained on; None where its file keeps none.
    """

    facts: PromptFacts
    tensors: Mapping[str, NDArray[np.float32]]
    digest: str
    training_images: TrainingImages | None = None

    @classmethod
    def of(
        cls,
        facts: PromptFacts,
        tensors: Mapping[str, NDArray[np.float32]],
        training_images: TrainingImages | None = None,
    ) -> Prompt:
        """Make a prompt of facts, tensors, which are copied, and training images, which the facts then describe."""
        facts = replace(facts, training_images=None if training_images is None else training_images.facts)
        kept = {}
        for name, tensor in tensors.items():
            kept[name] = np.array(tensor, np.float32, order="C")
            kept[name].flags.writeable = False
        return cls(facts, kept, _digest(to_json_values(facts), kept), training_images)

    @classmethod
    def read(cls, path: Path | str) -> Prompt:
        """Read and verify a prompt file.

        Raises:
            BundleError: it is missing, damaged, or of another schema.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                place = path.absolute()
                return cls.load(file, str(path), lambda: place.open("rb"))
        except OSError as error:
            raise BundleError(f"the prompt {path} cannot be read: {error.strerror or error}") from error

    @classmethod
    def parse(cls, data: bytes, name: str = "the prompt") -> Prompt:
        """Verify the bytes of a prompt file.

        Args:
            data: the whole file.
            name: what messages call it.

        Raises:
            BundleError: it is damaged, or of another schema.
        """
        return cls.load(io.BytesIO(data), name, lambda: io.BytesIO(data))

    @classmethod
    def load(cls, file: BinaryIO, name: str, reopen: Callable[[], BinaryIO]) -> Prompt:
        """Read and verify an open prompt file, without its training images.

        Args:
            file: the file.
            name: what messages call it.
            reopen: opens it again, when somebody asks for training images.

        Raises:
            BundleError: it is damaged, or of another schema.
            OSError: it cannot be read.
        """
        again = "copy it, or make it with attri-export, again"
        if file.seek(0, os.SEEK_END) > MAX_BYTES:
            raise BundleError(f"{name} has more than {MAX_BYTES >> 30} GB: that is no prompt file")
        try:
            tensors, metadata = read(file, lambda tensor: not is_kept(tensor))
            raw = json.loads(metadata[_ENTRY])
            schema = raw["schema"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise BundleError(f"{name} is no prompt file of attri, or it is damaged ({error}): {again}") from error
        if schema != PROMPT_SCHEMA:
            raise BundleError(f"{name} has schema {schema!r}, this attri reads {PROMPT_SCHEMA}: make it again")
        digest = raw.pop(_DIGEST, None)
        if digest != _digest(raw, tensors):
            raise BundleError(f"{name} is not the prompt that was written (sha256 differs): {again}")
        try:
            facts = from_json_values(raw)
        except ValueError as error:
            raise BundleError(f"{name} has missing or unknown fields ({error}): {again}") from error
        if bad := unusable(facts, tensors):
            raise BundleError(f"{name} has unusable values ({', '.join(bad)}): {again}")
        kept = facts.training_images
        return cls(facts, tensors, digest, None if kept is None else TrainingImages(kept, reopen, name))

    def to_bytes(self) -> bytes:
        """The content of its file; equal prompts give equal bytes.

        Raises:
            BundleError: its training images lie in a file that has been replaced since it was read.
        """
        text = json.dumps({**to_json_values(self.facts), _DIGEST: self.digest}, sort_keys=True, ensure_ascii=False)
        kept = {} if self.training_images is None else self.training_images.tensors()
        return pack({**self.tensors, **kept}, {_ENTRY: text})

    def save(self, path: Path) -> None:
        """Write it to a file, atomically.

        Raises:
            OSError: it cannot be written; what was there stays.
            BundleError: as of `to_bytes`.
        """
        write_file(path, self.to_bytes())

    @property
    def entries(self) -> int:
        """N, the entries of its pool."""
        return int(self.tensors["keys"].shape[-1])

    @property
    def vision_inputs(self) -> dict[str, NDArray[np.float32]]:
        """Inputs of the vision graph beside the pixels."""
        return {"keys": self.tensors["keys"]}

    @property
    def text_inputs(self) -> dict[str, NDArray[np.float32]]:
        """Inputs of the text graph beside the labels and the retrieved entries."""
        return {name: tensor for name, tensor in self.tensors.items() if name != "keys"}

    @property
    def retrieves(self) -> bool:
        """Whether entries depend on the image."""
        return self.facts.selection == "nearest"

    def select(self, nearest: NDArray[np.int32]) -> NDArray[np.int32]:
        """The entries that images get.

        Args:
            nearest: those nearest to their centres, ascending [B, L, M].

        Returns:
            Entries [B, L, M], ascending; one past the last entry is none.
        """
        if self.retrieves:
            return nearest
        row = np.arange(nearest.shape[-1], dtype=np.int32)
        row[row >= (self.entries if self.facts.selection == "all" else 0)] = self.entries
        return np.tile(row, (*nearest.shape[:-1], 1))

    def require_fit(self, base: Mapping[str, Any], name: str = "the prompt") -> None:
        """Check that it was made for this base.

        Args:
            base: `Manifest.base` of the bundle.
            name: what messages call the prompt.

        Raises:
            BundleError: names what differs.
        """
        theirs = self.facts.base
        if differing := [key for key in base if theirs.get(key) != base[key]]:
            said = "; ".join(f"{key} {short(theirs.get(key))}, here {short(base[key])}" for key in differing)
            raise BundleError(f"{name} was made for another bundle ({said}): export it for this one")
        if self.facts.selection == "all" and self.entries > base["clusters"] * base["topk"]:
            raise BundleError(f"{name} has {self.entries} entries, more than an image gets: export it again")


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 that names a prompt. It tells damage; whoever edits on purpose can compute it again."""
    return digest_of(json.dumps(facts, sort_keys=True, separators=(",", ":")), tensors)


def short(value: object) -> str:
    """Write a value for a message: of a sha256 its first digits."""
    text = str(value)
    return f"{text[:12]}..." if len(text) > 40 else text
