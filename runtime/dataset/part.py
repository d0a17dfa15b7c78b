"""A part of a dataset: the unit that is read, classified, written and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from attri.runtime.dataset.where import Where

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")


class Rows(NamedTuple):
    """Some rows of a dataset.

    Attributes:
        table: Their columns, without the images.
        images: Of each row what `ClassifyBatch` takes for an image.
        damaged: Whether this is a single row that says why the rest of its stretch cannot be read.
    """

    table: pyarrow.Table
    images: list[Any]
    damaged: bool = False


class Stretch(Protocol):
    """A stretch of the input that is read from its beginning to its end: paths, rows of a file, a tar."""

    @property
    def rows(self) -> int | None:
        """How many there are; None where reading alone tells."""
        ...

    @property
    def weight(self) -> int:
        """How much work it is, compared with others of its dataset."""
        ...

    def read(self, columns: Sequence[str], *, images: bool = True) -> Iterator[Rows]:
        """Read the rows in order, a few at a time.

        Args:
            columns: Of the table.
            images: False leaves images out, and their list empty.

        Raises:
            UnreadableError: It cannot be read.
        """
        ...


@dataclass(frozen=True)
class Piece:
    """Rows of a stretch.

    Attributes:
        stretch: The stretch.
        where: Which of its rows count; None are all.
        take: Which of those are taken, by their numbers; None are all.
    """

    stretch: Stretch
    where: Where | None = None
    take: tuple[int, ...] | None = None

    @property
    def rows(self) -> int | None:
        """How many rows it has; None where reading alone tells."""
        if self.take is not None:
            return len(self.take)
        return None if self.where is not None else self.stretch.rows

    @property
    def weight(self) -> int:
        """How much work it is, compared with others of its dataset."""
        return self.stretch.weight if self.take is None else len(self.take)

    def count(self) -> int:
        """Count its rows, by reading them where nothing else tells.

        Raises:
            UnreadableError: It cannot be read.
        """
        if self.rows is not None:
            return self.rows
        columns = self.where.columns if self.where else ()
        return sum(rows.table.num_rows for rows in self.read(columns, images=False) if not rows.damaged)

    def read(self, columns: Sequence[str], *, images: bool = True) -> Iterator[Rows]:
        """Read its rows in order, a few at a time.

        Raises:
            UnreadableError: It cannot be read.
        """
        needed = dict.fromkeys([*columns, *(self.where.columns if self.where else ())])
        taken, seen = None if self.take is None else set(self.take), 0
        for rows in self.stretch.read([*needed], images=images):
            if rows.damaged:
                yield rows
                continue
            kept = range(rows.table.num_rows) if self.where is None else self.where.rows_of(rows.table)
            chosen = [row for number, row in enumerate(kept, seen) if taken is None or number in taken]
            seen += len(kept)
            if len(chosen) == rows.table.num_rows:
                yield rows
            elif chosen:
                yield Rows(rows.table.take(chosen), [rows.images[row] for row in chosen] if images else [])
            if self.take is not None and seen > self.take[-1]:
                return


@dataclass(frozen=True)
class Part:
    """Consecutive pieces that are done together.

    Attributes:
        number: From 0, in the order of the input.
        pieces: One or more.
        columns: Of the input, those that are kept.
    """

    number: int
    pieces: tuple[Piece, ...]
    columns: tuple[str, ...]

    @property
    def weight(self) -> int:
        """How much work it is, compared with others of its dataset."""
        return sum(piece.weight for piece in self.pieces)

    def weight_of(self, rows: int) -> int:
        """How much work its first rows are; 0 where it is not known of how many."""
        return 0 if any(piece.rows is None for piece in self.pieces) else rows

    def read(self) -> Iterator[Rows]:
        """Read its rows in order, a few at a time, with the columns that are kept.

        Raises:
            UnreadableError: It cannot be read.
        """
        for piece in self.pieces:
            for rows in piece.read(self.columns):
                yield Rows(rows.table.select(self.columns), rows.images)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread fetches the next one meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item
