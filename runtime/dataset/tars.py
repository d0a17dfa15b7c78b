"""Tars in the layout of webdataset: files with one name and different suffixes are one sample."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from lzma import LZMAError
from typing import IO, Any

from attri.runtime._util.printable import as_text
from attri.runtime._util.wording import first_line
from attri.runtime.dataset.files import open_file, shown, unreadable
from attri.runtime.dataset.part import Rows
from attri.runtime.errors import ImageError
from attri.runtime.fetch import MAX_BYTES
from attri.runtime.images import IMAGE_SUFFIXES, is_stray

TEXTS = ("txt", "cls", "json")  # beside the image, in the columns of these names
KEPT = ("shard", "key", "name")
COLUMNS = (*KEPT, *TEXTS)
_NAME = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)")  # as webdataset splits it: at the first dot behind folders
_LONGEST_TEXT = 1 << 20  # bytes; longer ones are left out
_ROWS, _BYTES = 64, 1 << 26  # of a table, at most; an image more
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, LZMAError)
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_LONG_HEADERS = (*_HEADERS, tarfile.GNUTYPE_LONGLINK)


class _Member(tarfile.TarInfo):
    """A member whose headers are not read without a bound, as those of `tarfile` are."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _LONG_HEADERS and member.size > _LONGEST_TEXT:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


@dataclass
class _Sample:
    """What stands in a row of each image of a sample."""

    key: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    images: list[tuple[str, bytes | ImageError]] = field(default_factory=list)
    held: int = 0  # bytes


@dataclass(frozen=True)
class Tar:
    """A stretch of samples: one tar. A damaged tar ends with a row that says so.

    Attributes:
        path: Of this machine, or a URL.
        size: Bytes; None where its storage was not asked.
        suffix: Of the images, like "jpg" or "seg.png"; None takes every image.
    """

    path: str
    size: int | None
    suffix: str | None = None

    @property
    def rows(self) -> None:
        """Reading tells."""
        return None

    @property
    def weight(self) -> int:
        """Its size."""
        return self.size or 1

    def read(self, columns: Sequence[str], *, images: bool = True) -> Iterator[Rows]:
        """Read the rows in order, a few at a time.

        Raises:
            UnreadableError: The tar cannot be opened, or the connection to it breaks.
        """
        import pyarrow as pa

        schema = pa.schema([(name, pa.string()) for name in COLUMNS])
        shard = shown(self.path)
        rows: list[dict[str, Any]] = []
        cells: list[bytes | ImageError] = []

        def flushed() -> Rows:
            table = pa.Table.from_pylist(rows, schema).select(columns)
            found = Rows(table, list(cells) if images else [])
            rows.clear()
            cells.clear()
            return found

        try:
            for sample in self._samples(images):
                for name, image in sample.images:
                    rows.append({"shard": shard, "key": sample.key, "name": name, **sample.texts})
                    cells.append(image)
                if len(rows) >= _ROWS or sum(len(cell) for cell in cells if isinstance(cell, bytes)) >= _BYTES:
                    yield flushed()
            yield flushed()
        except _DAMAGED as error:
            yield flushed()
            reason = ImageError(f"{shard} is damaged from here on: {first_line(error)}")
            yield Rows(pa.Table.from_pylist([{"shard": shard}], schema).select(columns), [reason], damaged=True)

    def _samples(self, with_data: bool) -> Iterator[_Sample]:
        sample = _Sample()
        try:
            with open_file(self.path) as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it keeps all otherwise, however many there are
                    member.name = as_text(member.name.removeprefix("./"))
                    parts = _NAME.fullmatch(member.name)
                    if parts is None or not member.isfile() or any(map(is_stray, member.name.split("/"))):
                        continue
                    if parts[1] != sample.key or sample.held > MAX_BYTES:
                        yield sample
                        sample = _Sample(parts[1])
                    self._add(sample, tar.extractfile(member), member, parts[2], with_data)
        except _DAMAGED:
            yield sample  # what came before is good
            raise
        except Exception as error:  # each file system has errors of its own
            raise unreadable(self.path, error) from error
        yield sample

    def _add(
        self, sample: _Sample, file: IO[bytes] | None, member: tarfile.TarInfo, suffix: str, with_data: bool
    ) -> None:
        """Add a file to its sample, if it is an image or one of the texts."""
        assert file is not None  # it is a regular file
        wanted = f".{suffix.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
        if suffix in TEXTS and member.size <= _LONGEST_TEXT:
            sample.texts[suffix] = file.read().decode(errors="replace")
        elif suffix == self.suffix if self.suffix else wanted:
            image: bytes | ImageError = b""
            if member.size > MAX_BYTES:
                image = ImageError(f"{member.name} is too large: over {MAX_BYTES >> 20} MiB")
            elif with_data:
                image = file.read()
            sample.held += len(image) if isinstance(image, bytes) else 0
            sample.images.append((member.name, image))
