"""The facts of a prompt file: what it says in words and numbers, and whether that can be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

Selection = Literal["nearest", "all", "none"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
HOLDS = 0.5  # the score from which on an independent label holds, where no threshold was chosen


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
        training_images: "images", their number, and "bytes" and "sha256" of what is kept of them (`TrainingImages`);
            None where nothing is: then files lack it.
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
    training_images: dict[str, Any] | None = None


_OPTIONAL = ("independent", "attracts", "training_images")  # fields that files lack where they are None


def to_json_values(facts: PromptFacts) -> dict[str, Any]:
    """The fields as a file has them."""
    raw = asdict(facts)
    return {name: value for name, value in raw.items() if value is not None or name not in _OPTIONAL}


def from_json_values(raw: Mapping[str, Any]) -> PromptFacts:
    """The facts of a file, still to be checked.

    Raises:
        ValueError: names fields that are missing or unknown.
    """
    whole: dict[str, Any] = {**dict.fromkeys(_OPTIONAL), **raw}
    if odd := {each.name for each in fields(PromptFacts)} ^ whole.keys():
        raise ValueError(", ".join(sorted(odd)))
    whole["independent"] = _independent(whole["independent"])
    return PromptFacts(**whole)


def unusable(facts: PromptFacts, tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """Name the parts that the runtime relies on and cannot use."""
    return [what for what, right in _checks(facts, tensors).items() if not right]


def _checks(facts: PromptFacts, tensors: Mapping[str, NDArray[Any]]) -> dict[str, bool]:
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
        "training_images": facts.training_images is None or _describes_images(facts.training_images),
        "shapes": _are_shaped(tensors),
        "numbers": all(each.dtype == np.float32 and bool(np.isfinite(each).all()) for each in tensors.values()),
    }


def _independent(raw: Any) -> Any:
    """The scores that a file has; what is none of them is left to `unusable`."""
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


def _describes_images(raw: object) -> bool:
    kinds = {"images": int, "bytes": int, "sha256": str}
    return isinstance(raw, dict) and {name: type(value) for name, value in raw.items()} == kinds


def _are_shaped(tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the tensors are those of `attri.runtime.prompt`'s docstring, with one pool entry or more."""
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
