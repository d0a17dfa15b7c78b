"""The JSON record beside each cached engine: what it was built from and for, validated field by field.

Anybody who can write to the folder can write a record, so nothing in it is used before its type was checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from attri.runtime.engines.tensorrt.keys import EngineKey, Machine, canonical_json
from attri.runtime.engines.tensorrt.trust import seal
from attri.runtime.errors import EngineError

SCHEMA = 2
# Fields of a record, of its key and of that key's machine, and the JSON type of each.
_RECORD: dict[str, type] = {"schema": int, "key": dict, "built": str, "engine": dict, "figures": dict}
_ENGINE: dict[str, type] = {"size": int, "sha256": str}
_KEY: dict[str, type] = {"name": str, "graph": str, "machine": dict, "precision": str, "ranges": dict}
_KEY |= {"hardware_compatible": bool, "version_compatible": bool}
_MACHINE: dict[str, type] = {"tensorrt": str, "gpu": str, "capability": str, "system": str}
_VERSION = re.compile(r"[0-9]{1,9}(\.\w{1,20})+", re.ASCII)


@dataclass(frozen=True)
class EngineRecord:
    """A well-formed record. Whether it is to be trusted is not known yet.

    Attributes:
        path: of the record.
        key: of its engine.
        content: all of the JSON.
        sha256: of the record's file.
        size: of the record's file, in bytes.
    """

    path: Path
    key: EngineKey
    content: dict[str, Any]
    sha256: str
    size: int

    @property
    def engine_path(self) -> Path:
        """File of the engine."""
        return self.path.with_suffix(".plan")

    @property
    def engine_sha256(self) -> str:
        """SHA-256 of the engine's file, as recorded."""
        return str(self.content["engine"]["sha256"])

    @property
    def built(self) -> str:
        """Time of the build: UTC, ISO 8601."""
        return str(self.content["built"])


def make_record(key: EngineKey, serialized: bytes, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A sealed record of an engine that was built just now.

    Raises:
        EngineError: the secret for the seal cannot be read or made.
    """
    record = {
        "schema": SCHEMA,
        "key": asdict(key),
        "built": datetime.now(timezone.utc).isoformat(),
        "engine": {"size": len(serialized), "sha256": hashlib.sha256(serialized).hexdigest()},
        "figures": dict(figures),
    }
    return record | {"seal": seal(record)}


def read_record(path: Path) -> EngineRecord:
    """Read a record and check that every field is there and of its type.

    Raises:
        EngineError: it cannot be read or is not well-formed.
    """
    try:
        text = path.read_bytes()
        content = json.loads(text.decode())
        _require(content, _RECORD)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        _require(content["engine"], _ENGINE)
        canonical_json(content)  # what is nested too deeply for the seal fails here
        return EngineRecord(path, _key(content["key"]), content, hashlib.sha256(text).hexdigest(), len(text))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} is damaged ({error})") from error


def _key(fields: dict[str, Any]) -> EngineKey:
    """The key of a record. Raises ValueError for a field that is missing, unknown or unusable."""
    _require(fields, _KEY, closed=True)
    machine = fields["machine"]
    _require(machine, _MACHINE, closed=True)
    if not all(_VERSION.fullmatch(machine[name]) for name in ("tensorrt", "capability")):
        raise ValueError("a version is not one")
    if not all(value.isprintable() for value in machine.values()):
        raise ValueError("a machine's name is not printable")
    if not all(_is_range(each) for each in fields["ranges"].values()):
        raise ValueError("a range is not three whole numbers")
    ranges = {dim: tuple(each) for dim, each in fields["ranges"].items()}
    return EngineKey(**fields | {"machine": Machine(**machine), "ranges": ranges})


def _require(value: Any, types: Mapping[str, type], closed: bool = False) -> None:
    """Raises ValueError unless `value` is an object with these fields, each exactly of its type; closed: no others."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if wrong := [name for name, kind in types.items() if type(value.get(name)) is not kind]:
        raise ValueError(f"{', '.join(wrong)} missing or of another type")
    if closed and (unknown := value.keys() - types.keys()):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and [type(each) for each in value] == [int] * 3
