"""Small prompts of random numbers, for no bundle in particular."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from attri.runtime.prompt import PROMPT_SCHEMA, Prompt, PromptFacts

L, D, N, P, W = 2, 6, 5, 3, 4
BASE = {"model": "pocket", "weights": "0" * 64, "precision": "fp32", "depth": L}


def make_prompt(entries: int = N, static: bool = False, **facts: Any) -> Prompt:
    random = np.random.default_rng(0)
    tensors = {
        "keys": random.normal(size=(L, D, entries)).astype(np.float32),
        "prompt_table": random.normal(size=(L, entries, P, 2 * W)).astype(np.float32),
    }
    if static:
        tensors["static_table"] = random.normal(size=(L, 7, 2 * W)).astype(np.float32)
    said = PromptFacts(PROMPT_SCHEMA, "0.1.0", "2026-11-29T10:00:00+00:00", BASE, "a photo of a {}.", ["cat", "dög"])
    return Prompt.of(dataclasses.replace(said, **facts), tensors)
