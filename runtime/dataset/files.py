"""Files of a dataset: what a folder, a glob, a URL or {000..099} names, on any storage that fsspec knows."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from attri.runtime._util.printable import as_text
from attri.runtime._util.redact import redact, redact_uri
from attri.runtime._util.wording import first_line, plural
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.fetch import is_url, open_url
from attri.runtime.images import IMAGE_SUFFIXES, is_stray, list_images

Kind = Literal["parquet", "tar", "image"]
_SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "parquet": (".parquet", ".parq", ".pq"),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    "image": tuple(IMAGE_SUFFIXES),
}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # names that braces may stand for
_ASKING = 16  # threads that look for them: a storage takes some 100 ms for an answer


class UnreadableError(FailedError):
    """A file of a dataset cannot be read, at least not now: its part is left out, and tried again the next time."""


class File(NamedTuple):
    """A file.

    Attributes:
        path: Of this machine, or a URL.
        size: Bytes; None where its storage was not asked.
    """

    path: str
    size: int | None = None


def find_files(word: str) -> tuple[Kind, list[File]]:
    """Find the files that a word names, in an order that does not change.

    Args:
        word: A file, a folder (searched at all depths), or a glob with *, ? and [...]; {000..099} and {a,b} stand for
            several. Each may be a URL; http(s) ones name files, since a web server lists none.

    Returns:
        Their kind, and the files; of images, sizes are not looked up.

    Raises:
        UsageError: There are none, or of several kinds.
        UnreadableError: A storage does not answer.
    """
    words = [word] if not is_url(word) and Path(word).exists() else expand_braces(word)
    with ThreadPoolExecutor(_ASKING) as pool:
        listed = pool.map(lambda each: [*(_remote if is_url(each) else _local)(each)], words)
        found = [file for files in listed for file in files]
    by_kind = {kind: [file for file in found if kind_of(file.path) == kind] for kind in _SUFFIXES}
    by_kind = {kind: files for kind, files in by_kind.items() if files}
    named = redact_uri(word)
    if not by_kind:
        raise UsageError(f"{named} names no images, tars or Parquet files")
    if len(by_kind) > 1:
        counts = ", ".join(plural(len(files), f"{kind} file") for kind, files in by_kind.items())
        raise UsageError(f"{named} names several kinds ({counts}): name one by a glob, '{named}/**/*.tar'")
    ((kind, files),) = by_kind.items()
    return kind, list(dict.fromkeys(files))


def expand_braces(word: str) -> list[str]:
    """The names that a word with {000..099} or {a,b} stands for.

    Raises:
        UsageError: They are too many.
    """
    found = _BRACES.search(word)
    if found is None:
        return [word]
    if numbers := _RANGE.fullmatch(found[1]):
        first, last = int(numbers[1]), int(numbers[2])
        if not 0 <= last - first < _MOST:
            raise UsageError(f"{found[0]} stands for {last - first + 1} names: give a range of 1 to {_MOST}")
        names = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    else:
        names = found[1].split(",")
    ends = expand_braces(word[found.end() :])
    if len(names) * len(ends) > _MOST:
        raise UsageError(f"{redact_uri(word)} stands for more than {_MOST} names: give fewer")
    return [f"{word[: found.start()]}{name}{end}" for name in names for end in ends]


def kind_of(path: str) -> Kind | None:
    """What the suffix of a file's name or URL says that it is."""
    name = (urlsplit(path).path if path.startswith(("http://", "https://")) else path).lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), None)


def open_file(path: str, *, seekable: bool = False) -> IO[bytes]:
    """Open a file for reading.

    Args:
        path: Of this machine, or a URL; credentials are looked for where fsspec looks.
        seekable: Whether more than reading on is needed: then http(s) goes through fsspec too.

    Raises:
        UnreadableError: It cannot be opened.
    """
    try:
        if not is_url(path):
            return Path(path).open("rb")
        if seekable:
            import fsspec

            file: IO[bytes] = fsspec.open(path, "rb").open()
            return file
        return open_url(path)
    except Exception as error:  # each file system has errors of its own
        raise unreadable(path, error) from error


def shown(path: str) -> str:
    """A path as text, or a URL without its credentials."""
    return redact_uri(path) if is_url(path) else as_text(path)


def unreadable(path: str, error: Exception) -> UnreadableError:
    """What to say of a file or folder that its storage does not give."""
    if isinstance(error, UnreadableError):
        return error
    reason = getattr(error, "strerror", None) or first_line(error)
    return UnreadableError(f"{redact_uri(path)} cannot be read: {redact(str(reason))}")


def _local(word: str) -> Iterator[File]:
    path = Path(word)
    if path.is_dir():
        images = [File(str(each)) for each in list_images(path)]
        yield from images
        others = (each for each in sorted(path.rglob("*")) if kind_of(each.name) in ("parquet", "tar"))
        yield from (
            File(str(each), each.stat().st_size)
            for each in others
            if each.is_file() and not _is_hidden(each.relative_to(path).parts)
        )
    elif path.is_file():
        yield File(word, path.stat().st_size)
    elif glob.has_magic(word):
        for each in sorted(glob.iglob(word, recursive=True)):  # noqa: PTH207
            if Path(each).is_file() and not _is_hidden(Path(each).relative_to(_fixed(word)).parts):
                yield File(each, None if kind_of(each) == "image" else Path(each).stat().st_size)
    else:
        raise UsageError(f"{word} does not exist")


def _is_hidden(parts: tuple[str, ...]) -> bool:
    """Whether a path within a folder is of what systems and tools leave there."""
    return any(map(is_stray, parts))


def _remote(word: str) -> Iterator[File]:
    if word.startswith(("http://", "https://")):
        yield File(word)
        return
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(word)
        found = _listed(system, path)
    except ValueError as error:  # of an unknown scheme
        raise UsageError(f"{redact_uri(word)}: {redact(first_line(error))}") from error
    except FileNotFoundError as error:
        raise UsageError(f"{redact_uri(word)} does not exist") from error
    except Exception as error:  # each file system has errors of its own
        raise unreadable(word, error) from error
    for name in sorted(found):
        if not _is_hidden(PurePosixPath(name).relative_to(_fixed(path)).parts):
            size = found[name].get("size")
            yield File(system.unstrip_protocol(name), None if kind_of(name) == "image" else size)


def _listed(system: Any, path: str) -> dict[str, dict[str, Any]]:
    """Files below a path, or those that a glob matches, by name."""
    if glob.has_magic(path):
        found = system.glob(path, detail=True)
    elif (info := system.info(path))["type"] == "directory":
        found = system.find(path, detail=True)
    else:
        found = {path: info}
    return {name: info for name, info in found.items() if info.get("type") == "file"}


def _fixed(path: str) -> str:
    """The folders of a path in which no name is sought."""
    parts = PurePosixPath(path).parts
    wild = next((number for number, part in enumerate(parts) if glob.has_magic(part)), None)
    return str(PurePosixPath(*parts[:wild])) if wild is not None else path
