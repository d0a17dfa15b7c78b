"""What the operating system says: the state folder of this user, and the memory of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Memory:
    """Main memory, in bytes.

    Attributes:
        total: as installed.
        available: what programs can still have without swapping (MemAvailable, which counts caches as free).
    """

    total: int
    available: int


def memory(meminfo: Path = _MEMINFO) -> Memory | None:
    """Main memory of this machine; None where the system does not say (no /proc)."""
    fields = dict(line.split(":", 1) for line in read_text(meminfo).splitlines() if ":" in line)
    try:
        total, available = (int(fields[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    except (KeyError, ValueError, IndexError):
        return None
    return Memory(total, available)


def state_folder() -> Path:
    """Folder for what this user's attri keeps between runs: $XDG_STATE_HOME/attri, by default ~/.local/state/attri.

    Raises:
        RuntimeError: $XDG_STATE_HOME is not set and the user has no home.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "attri"


def read_text(path: Path) -> str:
    """Content of a file of the system (/proc, /etc) without the NULs and blanks around it; "" if there is none."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""
