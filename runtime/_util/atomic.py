"""Atomic file writes: a temporary sibling is written, flushed to the disk (fsync), and renamed.

A reader sees the old file or the new one, never half of one, and neither a kill nor a power cut leaves a name on an
empty file. The sibling is called .NAME.XXXXXXXX.part.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW_MODE = 0o644


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file by what the block writes to the temporary path that it is given.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Raises:
        OSError: the file cannot be written to the disk or renamed.
    """
    temporary = _sibling(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        _remove(temporary)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file, or make it.

    Raises:
        OSError: it cannot be written; it is as it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Replace several files, in this order, once the data of all of them is on the disk.

    Raises:
        OSError: one cannot be written; none of them is replaced. If a rename fails, those before it are.
    """
    temporaries = {path: _sibling(path) for path in files}
    try:
        for path, temporary in temporaries.items():
            temporary.write_bytes(files[path])
            _sync(temporary)
        for path, temporary in temporaries.items():
            temporary.replace(path)
        for folder in {path.parent for path in files}:
            _sync_folder(folder)
    finally:
        for temporary in temporaries.values():
            _remove(temporary)


def rewrite_file(path: Path, data: bytes) -> None:
    """Replace the content of a file that is somebody else's: its mode and owner stay, a link to it stays a link.

    Raises:
        OSError: it cannot be written; it is as it was.
    """
    target = Path(os.path.realpath(path))
    status = target.stat() if target.exists() else None
    with replacing(target) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)
        temporary.chmod(_NEW_MODE if status is None else stat.S_IMODE(status.st_mode))
        if status is not None and os.geteuid() == 0:
            os.chown(temporary, status.st_uid, status.st_gid)


def create_file(path: Path, data: bytes, mode: int = _NEW_MODE) -> bool:
    """Make a file that must not replace another, whichever process comes first.

    Returns:
        Whether it was made; False if `path` exists.

    Raises:
        OSError: it cannot be written.
    """
    temporary = _sibling(path)
    try:
        temporary.touch(mode=mode)
        temporary.write_bytes(data)
        _sync(temporary)
        os.link(temporary, path)  # fails where a rename would replace
        _sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        _remove(temporary)
    return True


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk. Not every file system can; the file is replaced all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()
