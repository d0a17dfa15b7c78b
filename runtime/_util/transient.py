"""Transient errors of the operating system (a full disk, a missing mount), after which the same command may succeed."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

FSTAB = Path("/etc/fstab")
_REMOVABLE = tuple(map(Path, ("/mnt", "/media", "/run/media")))  # mounted below them by hand or by the desktop
_NAMES = (
    *("EAGAIN", "EBUSY", "ETXTBSY", "EINTR", "ENOMEM", "EMFILE", "ENFILE", "ENOLCK"),
    *("ENOSPC", "EDQUOT", "EROFS", "EIO", "EREMOTEIO", "ENODEV", "ENXIO", "ENOMEDIUM", "ESTALE", "ENOTCONN"),
    *("EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
    *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ETIMEDOUT"),
)
_PASSING = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}


def may_pass(error: BaseException | None) -> bool:
    """Whether an error is transient: due to the state of the system, not to the request."""
    sqlite = sys.modules.get("sqlite3")  # where it was not imported, the error is none of its errors
    if sqlite is not None and isinstance(error, sqlite.OperationalError):
        return bool(re.search("locked|full|I/O", str(error)))
    if not isinstance(error, OSError) or type(error).__module__ != "builtins":  # ssl and socket have other numbers
        return False
    if error.errno == errno.ENOENT:
        return any(_awaits_mount(Path(str(name))) for name in (error.filename, error.filename2) if name)
    return error.errno in _PASSING


def missing(path: Path | str) -> FileNotFoundError:
    """Make a FileNotFoundError for `path`, to raise another error from."""
    return FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))


def _awaits_mount(path: Path) -> bool:
    """Whether a file system is to be mounted at or above `path`, by /etc/fstab or by custom, and none is now."""
    path, points = path.absolute(), _mount_points()
    for place in (path, *path.parents[:-1]):
        try:
            if place.is_mount():
                return False
        except OSError:  # a network's file system that has gone
            return True
        if place in points:
            return True
    return any(folder in path.parents for folder in _REMOVABLE)


def _mount_points() -> set[Path]:
    try:
        lines = [line.split() for line in FSTAB.read_text(errors="replace").splitlines()]
    except OSError:
        return set()
    fields = [line[1] for line in lines if len(line) > 1 and not line[0].startswith("#")]
    return {Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)) for field in fields}
