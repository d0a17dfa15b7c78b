"""Edits of a bundle's manifest whose own hash is made right again: a test of what lies behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attri.runtime.bundle import DIGEST, MANIFEST, manifest_digest


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """change: edits the fields in place."""
    raw = json.loads((bundle / MANIFEST).read_text())
    change(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw | {DIGEST: manifest_digest(raw)}))


def set_manifest(bundle: Path, **fields: Any) -> None:
    edit_manifest(bundle, lambda raw: raw.update(fields))
