"""Edits of a bundle's manifest and prompt whose own hashes are made right again: a test of what lies behind them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attri.runtime.bundle import DIGEST, MANIFEST, PROMPT, manifest_digest, read_manifest
from attri.runtime.errors import BundleError
from attri.runtime.prompt import Prompt


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """change: edits the fields in place."""
    raw = json.loads((bundle / MANIFEST).read_text())
    change(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw | {DIGEST: manifest_digest(raw)}))
    with suppress(BundleError, OSError, LookupError):  # what is damaged on purpose
        set_prompt(bundle, base=read_manifest(bundle).base)  # or the prompt would be of another base


def set_manifest(bundle: Path, **fields: Any) -> None:
    edit_manifest(bundle, lambda raw: raw.update(fields))


def set_prompt(bundle: Path, **facts: Any) -> None:
    """Give the bundle's prompt other facts, such as labels."""
    old = Prompt.read(bundle / PROMPT)
    Prompt.of(dataclasses.replace(old.facts, **facts), old.tensors).save(bundle / PROMPT)
