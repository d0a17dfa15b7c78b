"""Read the text files of datasets and check the image paths that they list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError


def read_text(path: Path) -> str:
    """Read a UTF-8 text, with or without BOM; line ends are kept.

    Raises:
        UsageError: it is missing, cannot be read, or has another encoding; the line is named.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: this is not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}, line {line}: a NUL byte, so this is not plain text; save the file as UTF-8")
    return text.removeprefix("\ufeff")


def below(folder: Path, name: str, where: str) -> Path:
    """Return `folder / name` for a name out of a downloaded list.

    Raises:
        UsageError: the path leads out of `folder`; the message starts with `where`.
    """
    relative = PurePosixPath(name)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise UsageError(f"{where}: the path {name!r} leads out of {folder}")
    return folder / relative


def require(source: Path, images: Iterable[Path], lines: Mapping[Path, int] | None = None) -> None:
    """Check that all images that `source` lists exist.

    Raises:
        UsageError: some are missing; their number and the first one are named.
    """
    every = list(images)
    missing = [path for path in every if not _is_file(path)]
    if missing:
        line = f" on line {lines[missing[0]]}" if lines else ""
        are = "is" if len(missing) == 1 else "are"
        count = f"{plural(len(every), 'image')}, of which {len(missing)} {are} missing"
        raise UsageError(f"{source} names {count}, the first{line}: {missing[0]}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that must not be entered
        return False
