"""Parquet files: a column of images (bytes of files, paths, URLs, Hugging Face's structs) beside any others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from attri.runtime._util.wording import first_line
from attri.runtime.dataset.files import File, open_file, shown, unreadable
from attri.runtime.dataset.part import Rows
from attri.runtime.errors import ImageError, UsageError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import FileMetaData

PLACE = ("_file", "_row")  # columns that every file has: its name, and the number of the row in it
_READERS = 16  # threads that read footers: of a bucket each takes some 100 ms
_ROWS, TABLE_BYTES = 64, 1 << 26  # of a table: fewer rows where images are large
_BUFFER = 1 << 20  # bytes that are read at once, in the place of a whole column


@dataclass(frozen=True)
class RowRange:
    """A stretch of the rows of a file.

    Attributes:
        path: Of this machine, or a URL.
        start: The first row.
        stop: The row behind the last.
        column: Of the images.
        schema: Of all files together; what differs in this one is cast.
    """

    path: str
    start: int
    stop: int
    column: str
    schema: pyarrow.Schema

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.stop - self.start

    @property
    def weight(self) -> int:
        """How many there are."""
        return self.rows

    def read(self, columns: Sequence[str], *, images: bool = True) -> Iterator[Rows]:
        """Read the rows in order, a few at a time.

        Raises:
            UnreadableError: The file cannot be opened, is damaged, or the connection to it breaks.
        """
        import pyarrow as pa

        stored = [name for name in self.schema.names if name in columns or (images and name == self.column)]
        try:
            with open_file(self.path, seekable=True) as file:
                for start, table in self._tables(file, stored):
                    yield self._rows(start, table, columns, images)
        except Exception as error:  # each file system has errors of its own
            # pyarrow's own say that the content is wrong; those of storages have a number or a class.
            if not isinstance(error, pa.ArrowInvalid) and (type(error) is not OSError or error.errno is not None):
                raise unreadable(self.path, error) from error
            yield self._damaged(columns, first_line(error))

    def _tables(self, file: IO[bytes], stored: list[str]) -> Iterator[tuple[int, pyarrow.Table]]:
        """Tables of stored columns, each with the number of its first row."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        parquet = ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        groups, position = [], 0
        for number in range(parquet.metadata.num_row_groups):
            group = parquet.metadata.row_group(number)
            if position < self.stop and position + group.num_rows > self.start:
                groups.append((number, position, group))
            position += group.num_rows
        for number, position, group in groups:
            size = max(1, min(_ROWS, TABLE_BYTES * group.num_rows // max(1, group.total_byte_size)))
            for batch in parquet.iter_batches(size, [number], stored or [self.column]):
                first, last = max(position, self.start), min(position + batch.num_rows, self.stop)
                if first < last:
                    yield first, pa.Table.from_batches([batch]).slice(first - position, last - first)
                position += batch.num_rows
                if position >= self.stop:
                    return

    def _damaged(self, columns: Sequence[str], reason: str) -> Rows:
        import pyarrow as pa

        path = shown(self.path)
        rows = f"rows {self.start} to {self.stop - 1}"
        found = {name: pa.nulls(1, type_of(self.schema, name)) for name in columns}
        if "_file" in found:
            found["_file"] = pa.array([path])
        error = ImageError(f"{path} is damaged, {rows} cannot all be read: {reason}")
        return Rows(pa.table(found), [error], damaged=True)

    def _rows(self, start: int, table: pyarrow.Table, columns: Sequence[str], images: bool) -> Rows:
        import pyarrow as pa

        cells = table[self.column].to_pylist() if images else []
        place = {"_file": [shown(self.path)] * table.num_rows, "_row": range(start, start + table.num_rows)}
        found = {
            name: pa.array(place[name], type_of(self.schema, name))
            if name in PLACE
            else table[name].cast(type_of(self.schema, name))
            for name in columns
        }
        return Rows(pa.table(found) if found else table.select([]), cells)


def plan_ranges(files: Sequence[File], column: str, rows: int) -> tuple[list[RowRange], pyarrow.Schema]:
    """Read the footers of all files, and cut their rows into stretches.

    Args:
        files: Parquet files.
        column: Of the images.
        rows: Of a stretch, at most.

    Returns:
        The stretches in order, and the columns of all files.

    Raises:
        UsageError: A file lacks the column, or two files have different columns, or it cannot hold images.
        UnreadableError: A file cannot be read.
    """
    import pyarrow as pa

    with ThreadPoolExecutor(_READERS) as pool:
        footers = list(pool.map(_footer, files))
    for file, footer in zip(files, footers, strict=True):
        names = footer.schema.to_arrow_schema().names
        if column not in names:
            raise UsageError(
                f"{shown(file.path)} has no column {column!r}, but {', '.join(names)}: give --image-column"
            )
        if odd := set(names) ^ set(footers[0].schema.to_arrow_schema().names):
            raise UsageError(f"{shown(file.path)} and {shown(files[0].path)} differ in columns: {min(odd)}")
    try:
        schema = pa.unify_schemas(
            [footer.schema.to_arrow_schema().remove_metadata() for footer in footers], promote_options="permissive"
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"the files differ in their columns: {first_line(error)}") from error
    _check_images(schema.field(column))
    ranges = [
        RowRange(file.path, start, min(start + rows, footer.num_rows), column, schema)
        for file, footer in zip(files, footers, strict=True)
        for start in range(0, footer.num_rows, rows)
    ]
    return ranges, schema


def type_of(schema: pyarrow.Schema, name: str) -> pyarrow.DataType:
    """Type of a column, of `PLACE` too."""
    import pyarrow as pa

    return {"_file": pa.string(), "_row": pa.int64()}.get(name) or schema.field(name).type


def is_text(kind: pyarrow.DataType) -> bool:
    """Whether a column is of text: of images, then, paths or URLs, which say more than bytes do."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _check_images(field: pyarrow.Field) -> None:
    from pyarrow import types

    kind = field.type
    as_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    struct = types.is_struct(kind) and {"bytes", "path"} & {kind.field(number).name for number in range(len(kind))}
    if not (as_bytes or struct or is_text(kind)):
        raise UsageError(f"the column {field.name!r} holds {kind}: give one of bytes, paths or URLs by --image-column")


def _footer(file: File) -> FileMetaData:
    from pyarrow.parquet import ParquetFile

    try:
        with open_file(file.path, seekable=True) as opened:
            return cast("Any", ParquetFile(opened).metadata)
    except Exception as error:  # each file system has errors of its own
        raise unreadable(file.path, error) from error
