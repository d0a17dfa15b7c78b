"""What is to be done: the input in parts, numbered the same way each time, with filter, limit and sample."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from attri.runtime.dataset import parquet, paths, tars
from attri.runtime.dataset.files import File, find_files
from attri.runtime.dataset.part import Part, Piece, Stretch
from attri.runtime.dataset.where import Where
from attri.runtime.errors import UsageError
from attri.runtime.fetch import is_url

if TYPE_CHECKING:
    import pyarrow

PART_ROWS = 2048


@dataclass(frozen=True)
class Request:
    """What of the input is asked for.

    Attributes:
        word: Names the files, see `find_files`.
        image: The column of images in Parquet, or the suffix of images in tars; None is "image", or every image.
        columns: Of the input that are kept; None are all but the images.
        where: A filter.
        limit: The first so many rows only.
        sample: So many rows at random only.
        seed: Of the sample.
        part_rows: Rows of a part, about; a tar is never cut.
    """

    word: str
    image: str | None = None
    columns: tuple[str, ...] | None = None
    where: str | None = None
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    part_rows: int = PART_ROWS


@dataclass(frozen=True)
class Plan:
    """The parts.

    Attributes:
        parts: In the order of the input.
        schema: Of the columns that are kept.
        listing: sha256 of the files' names and sizes.
        remote: Whether images have to be fetched one at a time.
        what: The input in words.
    """

    parts: list[Part]
    schema: pyarrow.Schema
    listing: str
    remote: bool
    what: str


def make_plan(request: Request) -> Plan:
    """Find the files, and make parts of them.

    Raises:
        UsageError: There are none, or they have no such columns.
        UnreadableError: A storage or a Parquet file cannot be read.
    """
    import pyarrow as pa

    kind, files = find_files(request.word)
    if kind == "image" and request.image is not None:
        raise UsageError("--image-column is for Parquet and tars: these are images")
    where = None if request.where is None else Where(request.where)
    stretches: Sequence[Stretch]
    if kind == "parquet":
        column = request.image or "image"
        stretches, schema = parquet.plan_ranges(files, column, request.part_rows)
        remote = parquet.is_text(schema.field(column).type)
        kept = [name for name in schema.names if name != column or remote] or [*parquet.PLACE]
        known = [*schema.names, *parquet.PLACE]
    else:
        stretches = (
            [tars.Tar(file.path, file.size, request.image) for file in files]
            if kind == "tar"
            else [paths.Paths(tuple(file.path for file in some)) for some in _sliced(files, request.part_rows)]
        )
        module = tars if kind == "tar" else paths
        remote = kind == "image" and any(is_url(file.path) for file in files)
        kept, known = list(tars.KEPT if kind == "tar" else paths.COLUMNS), list(module.COLUMNS)
        schema = pa.schema([(name, pa.string()) for name in known])
    columns = tuple(kept if request.columns is None else dict.fromkeys(request.columns))
    if unknown := [name for name in (*columns, *(where.columns if where else ())) if name not in known]:
        raise UsageError(f"{request.word} has no column {unknown[0]!r}, but {', '.join(known)}")
    full = pa.schema([(name, parquet.type_of(schema, name)) for name in known])
    if where is not None:
        where.rows_of(full.empty_table())  # says now what does not fit
    pieces = select([Piece(stretch, where) for stretch in stretches], request.limit, request.sample, request.seed)
    parts = [Part(number, some, columns) for number, some in enumerate(_together(pieces, request.part_rows))]
    listing = hashlib.sha256("\n".join(f"{file.path}\0{file.size}" for file in files).encode(errors="replace"))
    what = f"{len(files)} {kind} files" if len(files) > 1 else f"1 {kind} file"
    return Plan(parts, pa.schema([full.field(name) for name in columns]), listing.hexdigest(), remote, what)


def select(pieces: Sequence[Piece], limit: int | None, sample: int | None, seed: int = 0) -> list[Piece]:
    """Cut pieces down to the first rows, or to some at random; where a piece does not know its rows, it counts them.

    Args:
        pieces: In the order of the input.
        limit: The first so many rows.
        sample: So many rows, all with the same chance.
        seed: Of the sample.

    Raises:
        UnreadableError: A piece that has to count its rows cannot be read.
    """
    if limit is not None:
        return [*_first(pieces, limit)]
    if sample is None:
        return [*pieces]
    ends = [*accumulate(piece.count() for piece in pieces)]
    total = ends[-1] if ends else 0
    chosen = sorted(random.Random(seed).sample(range(total), min(sample, total)))
    starts = [0, *ends]
    found = []
    for piece, start, end in zip(pieces, starts, ends, strict=False):
        take = tuple(row - start for row in chosen[bisect_left(chosen, start) : bisect_left(chosen, end)])
        if take:
            found.append(replace(piece, take=take))
    return found


def _first(pieces: Iterable[Piece], left: int) -> Iterator[Piece]:
    for piece in pieces:
        if left <= 0:
            return
        count = piece.count()
        yield piece if count <= left else replace(piece, take=tuple(range(left)))
        left -= count


def _sliced(files: Sequence[File], size: int) -> Iterator[Sequence[File]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def _together(pieces: Iterable[Piece], most: int) -> Iterator[tuple[Piece, ...]]:
    """Join small pieces to parts of up to `most` rows; one that does not know its rows stays alone."""
    joined: list[Piece] = []
    count = 0
    for piece in pieces:
        rows = most if piece.rows is None else piece.rows
        if joined and count + rows > most:
            yield tuple(joined)
            joined, count = [], 0
        joined.append(piece)
        count += rows
    if joined:
        yield tuple(joined)
