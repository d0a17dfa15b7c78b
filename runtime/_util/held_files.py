"""Hold the files of a folder open: what was verified is what is read, even if the folder is replaced meanwhile."""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from pathlib import Path
from typing import Any

_PROC = Path("/proc/self/fd")  # opened again through it, a file is read from its start by whoever opens it
_CHUNK = 1 << 20


class HeldFiles:
    """Open descriptors of a folder and of files in it. They close with `close`, or with the last reference.

    Raises:
        OSError: the folder cannot be opened, or this system has no /proc.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, int] = {}
        self._written: dict[str, tuple[int, int]] = {}
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        descriptors = [self._folder]
        self._descriptors, self.close = descriptors, weakref.finalize(self, _close, descriptors)
        if not self.folder.is_dir():
            raise OSError(f"a bundle is read through {_PROC}, which this system does not have: mount /proc")

    @property
    def folder(self) -> Path:
        """The folder that was opened, wherever it has been moved."""
        return self._path(self._folder)

    def hold(self, name: str) -> dict[str, Any]:
        """Open a regular file of the folder itself; a link is not followed.

        Returns:
            Its size and sha256, as a manifest keeps them.

        Raises:
            OSError: it cannot be opened or read (ELOOP: it is a link).
        """
        # Without O_NONBLOCK, to open a pipe waits for whoever writes to it.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        self._descriptors.append(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name!r} is not a regular file")
        self._files[name], self._written[name] = descriptor, _written(descriptor)
        return entry_of(descriptor)

    def path(self, name: str) -> Path:
        """Path by which the file that was opened can be opened again.

        Raises:
            KeyError: `hold` did not open it.
            ValueError: the files are closed.
        """
        return self._path(self._files[name])

    def changed(self) -> list[str]:
        """Names of files whose content was changed in place since they were opened."""
        return [name for name, descriptor in self._files.items() if _written(descriptor) != self._written[name]]

    def _path(self, descriptor: int) -> Path:
        if not self.close.alive:
            raise ValueError("the files of a closed bundle are not read")
        return _PROC / str(descriptor)


def entry_of(descriptor: int) -> dict[str, Any]:
    """Size and sha256 of an open file, as a manifest keeps them; its position stays where it is."""
    digest, size = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK, size):
        digest.update(chunk)
        size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def _written(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_mtime_ns, status.st_size


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
