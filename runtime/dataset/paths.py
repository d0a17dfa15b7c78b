"""Images as files of their own: a folder, a glob, a prefix of a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attri.runtime.dataset.files import shown
from attri.runtime.dataset.part import Rows

COLUMNS = ("path",)
_ROWS = 64  # of a table


@dataclass(frozen=True)
class Paths:
    """A stretch of images.

    Attributes:
        paths: Of this machine, or URLs.
    """

    paths: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.paths)

    @property
    def weight(self) -> int:
        """How many there are."""
        return len(self.paths)

    def read(self, columns: Sequence[str], *, images: bool = True) -> Iterator[Rows]:
        """The rows; classifying opens the files."""
        import pyarrow as pa

        for start in range(0, len(self.paths), _ROWS):
            paths = self.paths[start : start + _ROWS]
            names = pa.array(map(shown, paths), pa.string())
            yield Rows(pa.table({"path": names}), list(paths) if images else [])
