"""A prompt file: all that training learned, about 2 MB, as inputs of the graphs of a bundle.

A bundle's graphs, token embedding and tokenizer belong to the backbone. What was learned on it is data beside them: the
keys and tables of the prompt pool, the labels, and what was fitted to them. So a new prompt needs no new graphs and no
engine build, and several prompts share one bundle.

The file is in the safetensors format:
keys          float32 [L, D, N], unit columns: the keys of N pool entries for each of L prompted text blocks
prompt_table  float32 [L, N, p, 2 W]: keys and values that the p tokens of each entry bring into attention
static_table  float32 [L, q, 2 W]: the same of static tokens, where the model has any
metadata      "attri": the fields of `PromptFacts` as JSON, and a sha256 of them and of the tensors
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.atomic import write_file
from attri.runtime.errors import BundleError
from attri.runtime.tensor_file import pack, unpack

PROMPT_SCHEMA = 1
Selection = Literal["nearest", "all", "none"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
HOLDS = 0.5  # the score from which on an independent label holds, where no threshold was chosen
MAX_BYTES = 1 << 30  # of a file; one of ViT-L-14 with 1,000 entries has 0.2 GB
_ENTRY, _DIGEST = "attri", "sha256"


@dataclass(frozen=True)
class IndependentScores:
    """How each label is scored by itself, so that several may hold: sigmoid(scale * cosine + bias).

    Attributes:
        scale: of the cosine.
        bias: added after it.
        threshold: the score from which on a label holds.
        thresholds: the same of labels that have one of their own, by label.
    """

    scale: float
    bias: float
    threshold: float = HOLDS
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptFacts:
    """What a prompt file says in words and numbers.

    Attributes:
        schema: version of the file's layout.
        attri: version that wrote it.
        created: UTC, ISO 8601.
        base: what the graphs must be, by `Manifest.base`.
        template: sentence around each label, with {} in its place.
        labels: default labels, the classes of the training.
        selection: which pool entries an image gets: "nearest" to its centres (AttriPrompt), "all" (static prompts, the
            same for every image), or "none" (plain CLIP).
        temperature: logits are divided by it; 1 is uncalibrated.
        threshold: scores below it are "none of these"; None never rejects.
        independent: how labels are scored by themselves; None where that was not fitted: then files lack it.
        parity: figures and gates of its comparison with the PyTorch model.
        source: the run that it was learned in, for people: any names and values.
        attracts: for each of L blocks and N pool entries the classes of the training whose images retrieve it more than
            others do, the strongest first; None where that is not known: then files lack it.
    """

    schema: int
    attri: str
    created: str
    base: dict[str, Any]
    template: str
    labels: list[str]
    selection: Selection = "nearest"
    temperature: float = 1.0
    threshold: float | None = None
    independent: IndependentScores | None = None
    parity: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    attracts: list[list[list[str]]] | None = None


_OPTIONAL = ("independent", "attracts")  # fields that files lack where they are None


@dataclass(frozen=True, eq=False)
class Prompt:
    """A learned prompt: `read` one from a file, or take the one of a `Bundle`.

    Attributes:
        facts: labels, template, temperature and the like.
        tensors: read-only arrays by the graphs' names of their inputs; see the module.
        digest: sha256 of facts and tensors, in hexadecimal; it names this prompt.
    """

    facts: PromptFacts
    tensors: Mapping[str, NDArray[np.float32]]
    digest: str

    @classmethod
    def of(cls, facts: PromptFacts, tensors: Mapping[str, NDArray[np.float32]]) -> Prompt:
        """Make a prompt of facts and tensors, which are copied."""
        kept = {}
        for name, tensor in tensors.items():
            kept[name] = np.array(tensor, np.float32, order="C")
            kept[name].flags.writeable = False
        return cls(facts, kept, _digest(_fields_of(facts), kept))

    @classmethod
    def read(cls, path: Path | str) -> Prompt:
        """Read and verify a prompt file.

        Raises:
            BundleError: it is missing, damaged, or of another schema.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise BundleError(f"the prompt {path} cannot be read: {error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise BundleError(f"{path} has more than {MAX_BYTES >> 30} GB: that is no prompt file")
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, name: str = "the prompt") -> Prompt:
        """Verify the bytes of a prompt file.

        Args:
            data: the whole file.
            name: what messages call it.

        Raises:
            BundleError: it is damaged, or of another schema.
        """
        again = "copy it, or make it with attri-export, again"
        try:
            tensors, metadata = unpack(data)
            raw = json.loads(metadata[_ENTRY])
            schema = raw["schema"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise BundleError(f"{name} is no prompt file of attri, or it is damaged ({error}): {again}") from error
        if schema != PROMPT_SCHEMA:
            raise BundleError(f"{name} has schema {schema!r}, this attri reads {PROMPT_SCHEMA}: make it again")
        digest = raw.pop(_DIGEST, None)
        if digest != _digest(raw, tensors):
            raise BundleError(f"{name} is not the prompt that was written (sha256 differs): {again}")
        raw = dict.fromkeys(_OPTIONAL) | raw
        if odd := {each.name for each in fields(PromptFacts)} ^ raw.keys():
            raise BundleError(f"{name} has missing or unknown fields ({', '.join(sorted(odd))}): {again}")
        facts = PromptFacts(**raw | {"independent": _independent(raw["independent"])})
        if bad := [what for what, right in _checks(facts, tensors).items() if not right]:
            raise BundleError(f"{name} has unusable values ({', '.join(bad)}): {again}")
        return cls(facts, tensors, digest)

    def to_bytes(self) -> bytes:
        """The content of its file; equal prompts give equal bytes."""
        text = json.dumps({**_fields_of(self.facts), _DIGEST: self.digest}, sort_keys=True, ensure_ascii=False)
        return pack(self.tensors, {_ENTRY: text})

    def save(self, path: Path) -> None:
        """Write it to a file, atomically.

        Raises:
            OSError: it cannot be written; what was there stays.
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


def _fields_of(facts: PromptFacts) -> dict[str, Any]:
    """The fields as a file has them."""
    raw = asdict(facts)
    return {name: value for name, value in raw.items() if value is not None or name not in _OPTIONAL}


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of all that a file holds. It tells damage; whoever edits on purpose can compute it again."""
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        whole.update(np.ascontiguousarray(tensor).tobytes())
    return whole.hexdigest()


def _checks(facts: PromptFacts, tensors: Mapping[str, NDArray[Any]]) -> dict[str, bool]:
    """Whether each part that the runtime relies on can be used."""
    labels = facts.labels
    return {
        "labels": isinstance(labels, list) and len(labels) > 0 and all(isinstance(label, str) for label in labels),
        "template": isinstance(facts.template, str) and facts.template.count("{}") == 1,
        "selection": facts.selection in SELECTIONS,
        "temperature": _is_positive(facts.temperature),
        "threshold": facts.threshold is None or facts.threshold == 0 or _is_positive(facts.threshold),
        "independent": _can_score(facts.independent),
        "base": isinstance(facts.base, dict),
        "parity": facts.parity is None or isinstance(facts.parity, dict),
        "source": facts.source is None or isinstance(facts.source, dict),
        "attracts": facts.attracts is None or _names_entries(facts.attracts, tensors),
        "shapes": _are_shaped(tensors),
        "numbers": all(each.dtype == np.float32 and bool(np.isfinite(each).all()) for each in tensors.values()),
    }


def _independent(raw: Any) -> Any:
    """The scores that a file has; what is none of them is left to `_checks`."""
    try:
        return None if raw is None else IndependentScores(**raw)
    except TypeError:
        return raw


def _can_score(scores: object) -> bool:
    if scores is None:
        return True
    return (
        isinstance(scores, IndependentScores)
        and _is_positive(scores.scale)
        and _is_finite(scores.bias)
        and isinstance(scores.thresholds, dict)
        and all(_is_finite(each) and 0 <= each <= 1 for each in (scores.threshold, *scores.thresholds.values()))
    )


def _names_entries(attracts: object, tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether there is a list of names for each block and entry."""
    depth, entries = tensors["keys"].shape[::2] if _are_shaped(tensors) else (0, 0)
    return (
        isinstance(attracts, list)
        and len(attracts) == depth
        and all(isinstance(block, list) and len(block) == entries for block in attracts)
        and all(isinstance(names, list) for block in attracts for names in block)
        and all(isinstance(name, str) for block in attracts for names in block for name in names)
    )


def _are_shaped(tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the tensors are those of the module's docstring, with one pool entry or more."""
    if not {"keys", "prompt_table"} <= tensors.keys() <= {"keys", "prompt_table", "static_table"}:
        return False
    keys, table, static = tensors["keys"].shape, tensors["prompt_table"].shape, tensors.get("static_table")
    return (
        len(keys) == 3
        and len(table) == 4
        and min(*keys, *table) > 0
        and (keys[0], keys[2]) == table[:2]
        and table[3] % 2 == 0
        and (static is None or (static.ndim == 3 and (static.shape[0], static.shape[2]) == (keys[0], table[3])))
    )


def _is_positive(value: object) -> bool:
    return _is_finite(value) and value > 0


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def short(value: object) -> str:
    """Write a value for a message: of a sha256 its first digits."""
    text = str(value)
    return f"{text[:12]}..." if len(text) > 40 else text
