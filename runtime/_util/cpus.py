"""How many CPUs this process may use: its affinity, bounded by the CPU quotas of its control groups (cgroups).

A container or a systemd unit with `--cpus 2` or `CPUQuota=200%` still sees all CPUs of its machine. Threads beyond the
quota use it up early in each period, and then all of them stand still until the next one begins.

Layouts: cgroup v2 (cpu.max), v1 (cpu.cfs_quota_us and cpu.cfs_period_us), and both at once, as systemd's hybrid setup
has them. A quota binds everything below it, so each group up to the root that this process can see counts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


@dataclass(frozen=True)
class Cpus:
    """CPUs that this process may use.

    Attributes:
        installed: CPUs of the machine.
        allowed: CPUs in the affinity of this process (taskset, cpusets).
        quota: CPU quota of the tightest control group, in CPUs; None where there is none.
    """

    installed: int
    allowed: int
    quota: float | None

    @property
    def count(self) -> int:
        """Threads that can compute at once: a quota of 1.5 CPUs keeps two busy most of the time."""
        return self.allowed if self.quota is None else max(1, min(self.allowed, math.ceil(self.quota)))

    def __str__(self) -> str:
        said = f"{self.count} of {self.installed} for this process"
        reasons = [f"affinity {self.allowed}"] if self.allowed < self.installed else []
        reasons += [f"cgroup quota {self.quota:g}"] if self.quota is not None else []
        return f"{said} ({', '.join(reasons)})" if reasons else said


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy: `root` is the group whose folder `point` is; `kind` is "cgroup" or "cgroup2"."""

    root: str
    point: str
    kind: str
    options: tuple[str, ...]


def usable_cpus(root: Path = ROOT) -> Cpus:
    """Count the CPUs that this process may use.

    Args:
        root: folder below which /proc and the control groups are.
    """
    allowed = len(os.sched_getaffinity(0))
    return Cpus(max(os.cpu_count() or 1, allowed), allowed, min(_quotas(root), default=None))


def share_cpus(environment: MutableMapping[str, str] = os.environ, root: Path = ROOT) -> None:
    """Set OpenMP's environment variables (PyTorch, MKL) so that its threads share the machine with other programs.

    Waiting threads sleep instead of spinning, and there are no more of them than the CPU quota feeds. Without a quota
    their number is left to the library, which knows the affinity. Variables that the user has set stay. OpenMP reads
    them when it is loaded, so call this before.

    Args:
        environment: is changed in place.
        root: as for `usable_cpus`.
    """
    cpus = usable_cpus(root)
    if cpus.count < cpus.allowed:
        environment.setdefault("OMP_NUM_THREADS", str(cpus.count))
    if not environment.keys() & {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota of each control group that binds this process, in CPUs."""
    groups = _groups(root)
    for mount in _mounts(root):
        group = groups.get("" if mount.kind == "cgroup2" else "cpu" if "cpu" in mount.options else "none")
        folders = [] if group is None else _upwards(mount, group)
        quotas = (_quota(root / folder.lstrip("/")) for folder in folders)
        yield from (quota for quota in quotas if quota is not None)


def _groups(root: Path) -> dict[str, str]:
    """Map each controller to the control group of this process; "" stands for cgroup v2."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), group)
    return groups


def _mounts(root: Path) -> Iterator[_Mount]:
    """Yield the mounted control group hierarchies of /proc/self/mountinfo (proc(5))."""
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            yield _Mount(_unescape(fields[3]), _unescape(fields[4]), kind[0], tuple(kind[2].split(",")))


def _upwards(mount: _Mount, group: str) -> list[str]:
    """Folders of a control group and its parents, as far as they are mounted.

    In a container, /proc may give the group by its name on the host while the mount begins at the container's own
    group; or the mount begins elsewhere (a bind mount, another namespace: "/../.."), and its first folder is taken.
    """
    inner, top = PurePosixPath(group), PurePosixPath(mount.point)
    inside = inner.is_relative_to(mount.root) and ".." not in inner.parts
    folder = top / inner.relative_to(mount.root) if inside else top
    return [str(each) for each in (folder, *folder.parents) if each.is_relative_to(top)]


def _quota(folder: Path) -> float | None:
    """CPU quota of one group; None where it has none."""
    unified = " ".join(_lines(folder / "cpu.max")).split()
    parts = unified or _lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us")
    try:
        quota, period = (int(part) for part in parts)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(file: Path) -> list[str]:
    """Lines of a file; none where it cannot be read."""
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescape(path: str) -> str:
    """Decode the octal escapes of mountinfo (spaces and the like)."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
