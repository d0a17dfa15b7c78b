"""A name in a bucket, and what rows need of `pathlib.Path` there, by fsspec."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from attri.runtime._util.atomic import replacing
from attri.runtime._util.redact import redact, redact_uri
from attri.runtime._util.wording import first_line
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.fetch import is_url

# In these an object appears when all of it is there; of a server of files (sftp, hdfs) a reader sees half of one.
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


class BucketPath:
    """An object or a prefix of objects, with the methods of `pathlib.Path` that are needed.

    Args:
        url: s3://BUCKET/NAME and the like.

    Raises:
        UsageError: It is no such URL.
        FailedError: The package of its storage is not installed.
    """

    def __init__(self, url: str) -> None:
        scheme, _, key = url.partition("://")
        name = PurePosixPath(key)
        if scheme not in SCHEMES:
            known = ", ".join(f"{each}://" for each in SCHEMES)
            raise UsageError(f"{redact_uri(url)}: give a path, or a name in a bucket ({known})")
        if len(name.parts) < 2:
            raise UsageError(f"{redact_uri(url)} is a whole bucket: name a folder in it")
        self._url = url.rstrip("/")
        self.name, self.stem, self.suffix = name.name, name.stem, name.suffix
        try:
            import fsspec

            self._system, self._key = fsspec.core.url_to_fs(self._url)
        except Exception as error:  # each storage has its own, and one that is not installed ImportError
            raise FailedError(f"{self} cannot be reached: {redact(first_line(error))}") from error

    def __str__(self) -> str:
        return redact_uri(self._url)

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(f"{self._url}/{name}")

    def with_name(self, name: str) -> BucketPath:
        """The one of that name beside this one."""
        return BucketPath(f"{self._url.rpartition('/')[0]}/{name}")

    def is_within(self, word: str) -> bool:
        """Whether it lies below a URL."""
        return f"{self._url}/".startswith(f"{word.rstrip('/')}/")

    def is_file(self) -> bool:
        """Whether it is an object."""
        with self._storage():
            return bool(self._system.isfile(self._key))

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """Objects right below it whose names match."""
        with self._storage():
            self._system.invalidate_cache()  # another process may have written since
            found = self._system.find(self._key, maxdepth=1)
        for key in found:
            if fnmatchcase(name := PurePosixPath(key).name, pattern):
                yield self / name

    def open(self, mode: str) -> IO[bytes]:
        """Open it for reading here and there: what is asked for is fetched, and no more."""
        with self._storage():
            file: IO[bytes] = self._system.open(self._key, mode, cache_type="none")
            return file

    def read_bytes(self) -> bytes:
        """All of it."""
        with self._storage():
            data: bytes = self._system.cat_file(self._key)
            return data

    def write_bytes(self, data: bytes) -> None:
        """Make it of bytes, whatever was there."""
        with self._storage():
            self._system.pipe_file(self._key, data)

    def create(self, data: bytes) -> bool:
        """Make it of bytes, only where it is not there: the storage decides between two who try at once.

        Returns:
            Whether it was not there.
        """
        with self._storage():
            try:
                self._system.pipe_file(self._key, data, mode="create")
            except Exception as error:  # each storage has one of its own for this
                self._system.invalidate_cache()
                if self._system.exists(self._key):
                    return False
                if getattr(error, "errno", None) != errno.ENOSYS:
                    raise
                self._system.pipe_file(self._key, data)  # a storage that knows no such condition
            return True

    def unlink(self) -> None:
        """Remove it; it may be gone already."""
        with self._storage(), suppress(FileNotFoundError):
            self._system.rm_file(self._key)

    def put(self, file: Path) -> None:
        """Make it of a file, all at once."""
        with self._storage():
            self._system.put_file(str(file), self._key)

    def remove_all(self) -> None:
        """Remove the objects below it."""
        with self._storage():
            for key in self._system.find(self._key):
                self._system.rm_file(key)

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """Errors of the storage, each of which has classes of its own, as OSError without credentials."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise OSError(redact(first_line(error))) from error


Place = Path | BucketPath


def place_of(word: str) -> Place:
    """Where an output goes: a path, or the URL of a bucket. Raises UsageError."""
    return BucketPath(word) if is_url(word) else Path(word)


@contextmanager
def whole(place: Place) -> Iterator[Path]:
    """Write a file that appears when it is finished: the block writes to the temporary path that it is given.

    Raises:
        OSError: It cannot be written.
    """
    if isinstance(place, Path):
        with replacing(place) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / place.name
        yield temporary
        place.put(temporary)


def opened(place: Place) -> Any:
    """What pyarrow reads from."""
    return place if isinstance(place, Path) else place.open("rb")
