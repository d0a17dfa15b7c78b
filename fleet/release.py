"""A release: a bundle as a list of files by their content, so that a device fetches only those that it lacks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Kind = Literal["bundle", "prompt"]
MOST_FILES, MOST_BYTES = 64, 1 << 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # one part of a path, and never one above
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A file by its content.

    Attributes:
        size: bytes.
        sha256: in hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A bundle that was pushed, complete: one of which only the prompt is new lists the other files again.

    Attributes:
        serial: higher for a later one of the same channel.
        created: UTC, ISO 8601.
        kind: whether the whole bundle was pushed, or a prompt for the one before.
        schema: of the bundle's manifest.
        files: by their names in the bundle.
    """

    serial: int
    created: str
    kind: Kind
    schema: int
    files: Mapping[str, Entry]

    @property
    def digest(self) -> str:
        """sha256 of names and contents of all files: it names what this release is."""
        lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Serial and digest in a few characters, for people and folders."""
        return f"{self.serial}-{self.digest[:12]}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Release:
        """Read one.

        Raises:
            ValueError, TypeError, LookupError: it is none, or it names files outside of its folder.
        """
        files = {name: Entry(entry["size"], entry["sha256"]) for name, entry in raw["files"].items()}
        if not 0 < len(files) <= MOST_FILES:
            raise ValueError(f"a release of {len(files)} files")
        for name, entry in files.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"a release with a file {name!r}")
            if type(entry.size) is not int or not 0 <= entry.size <= MOST_BYTES or not _SHA256.fullmatch(entry.sha256):
                raise ValueError(f"a release with {name} of unusable size or sha256")
        serial, schema, kind = raw["serial"], raw["schema"], raw["kind"]
        if type(serial) is not int or type(schema) is not int or kind not in get_args(Kind):
            raise ValueError("a release of unusable serial, schema or kind")
        return cls(serial, str(raw["created"]), kind, schema, files)
