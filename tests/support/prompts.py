"""Prompts for the tests' bundle that nobody trained: of every kind, each with labels of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from attri.runtime.bundle import PROMPT
from attri.runtime.prompt import Prompt, Selection

OWN_LABELS = {
    "learned": ["red apple", "bird", "a small house"],
    "other": ["cat", "dog", "a large house", "teapot"],
    "static": ["tree", "car"],
    "plain": ["red apple", "bird", "a small house"],
}


def changed(prompt: Prompt, labels: list[str], seed: int, entries: int, selection: Selection = "nearest") -> Prompt:
    """Another prompt of the same base: fewer entries, other tables, labels and a temperature of its own."""
    random = np.random.default_rng(seed)
    table = prompt.tensors["prompt_table"][:, :entries]
    keys = random.permutation(prompt.tensors["keys"], axis=-1)[..., :entries]
    facts = dataclasses.replace(prompt.facts, labels=labels, selection=selection, temperature=3.0, template="a {}")
    return Prompt.of(facts, {"keys": keys, "prompt_table": random.permutation(table.ravel()).reshape(table.shape)})


def kinds_of_prompts(bundle: Path) -> dict[str, Prompt]:
    """Learned, learned otherwise, static (all images get its entries) and plain CLIP (none gets any)."""
    first = Prompt.read(bundle / PROMPT)
    most = first.facts.base["clusters"] * first.facts.base["topk"]
    return {
        "learned": first,
        "other": changed(first, OWN_LABELS["other"], 1, 9),
        "static": changed(first, OWN_LABELS["static"], 2, most, "all"),
        "plain": changed(first, OWN_LABELS["plain"], 3, first.entries, "none"),
    }


def noise(prompt: Prompt) -> Prompt:
    """A prompt that fits the same bundle, has the same labels, and knows nothing."""
    found = changed(prompt, list(prompt.facts.labels), 5, prompt.entries)
    return Prompt.of(found.facts, {**found.tensors, "prompt_table": 30 * found.tensors["prompt_table"]})
