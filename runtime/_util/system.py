"""What the operating system says: memory and processor of this machine, and the state folder of this user."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attri.runtime._util.atomic import write_file
from attri.runtime._util.cpus import usable_cpus

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


def remember(name: str, key: Mapping[str, object], value: object) -> None:
    """Keep what was found out about this machine, until the next run or any later one; where that fails, do without.

    Args:
        name: What it is, as a file's name.
        key: What it depends on beside the machine, as JSON.
        value: As JSON.
    """
    with contextlib.suppress(OSError, RuntimeError):
        path = _kept(name, key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(path, json.dumps(value).encode())


def recall(name: str, key: Mapping[str, object]) -> Any:
    """What `remember` kept; None where there is nothing, or nothing that can be read."""
    try:
        return json.loads(_kept(name, key).read_bytes())
    except (OSError, RuntimeError, ValueError):
        return None


def processor() -> str:
    """The processor's name, as Linux has it, or the board's, as on a Jetson; "" where there is none."""
    lines = read_text(Path("/proc/cpuinfo")).splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or read_text(Path("/proc/device-tree/model"))


def _kept(name: str, key: Mapping[str, object]) -> Path:
    whole = {**key, "machine": [platform.machine(), processor(), usable_cpus().count]}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
    return state_folder() / name / f"{digest}.json"


def read_text(path: Path) -> str:
    """Content of a file of the system (/proc, /etc) without the NULs and blanks around it; "" if there is none."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""
