"""Where rows go: a folder of Parquet parts, each renamed into place when it is finished, or one file joined of them.

OUT/part-000000.parquet     a finished part; what was killed half-way is not there
.OUT.attri-batch.json       what the rows were made of, so that no other command mixes its own into them

JSON lines and CSV are joined of such parts in .OUT.parts/, which goes then. Nothing but parts lies in the folder: some
readers of Parquet take every file of a folder for their own, hidden ones too.
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attri.runtime._util.atomic import replacing, write_file
from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime._util.transient import missing
from attri.runtime._util.wording import first_line
from attri.runtime.dataset.text import SUFFIXES, check_text, write_text
from attri.runtime.errors import AttriError, FailedError, SinkError, UsageError

if TYPE_CHECKING:
    import pyarrow

_GROUP = 8192  # rows that are written at once, at most


class Counts(NamedTuple):
    """Rows of a part."""

    rows: int
    errors: int


def run_file_of(path: Path) -> Path:
    """The file beside an output that says what its rows were made of."""
    return _beside(path, "attri-batch.json")


class Output:
    """A folder of parts, which one process at a time writes.

    Args:
        path: A folder, or a file whose suffix says JSON lines or CSV.
        run: What the rows are made of, as JSON; equal ones give equal rows.
        schema: Of the rows.

    Raises:
        UsageError: A column cannot be text, where that is asked for.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], schema: pyarrow.Schema) -> None:
        self.path, self._run, self._schema = path, dict(run), schema
        self.is_text = path.suffix.lower() in SUFFIXES
        self.folder = _beside(path, "parts") if self.is_text else path
        self._run_file = run_file_of(path)
        if self.is_text:
            check_text(schema)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Begin or continue, and keep others out meanwhile.

        Raises:
            UsageError: There is something else.
            FailedError: Another process is at it.
            SinkError: Nothing can be written there.
        """
        path = _beside(self.path, "lock")
        with _written(self.path):
            self._check_path()
            lock = try_lock(path)
        if lock is None:
            raise FailedError(f"another attri-batch writes to {self.path}: wait for it")
        try:
            with _written(self.path):
                self._begin()
            beside = _beside(self.path, "")
            for left in [*self.folder.glob(".*.part"), *beside.parent.glob(f"{glob.escape(beside.name)}*.part")]:
                left.unlink(missing_ok=True)  # of a process that was killed
            yield
        finally:
            unlock(path, lock)

    @property
    def finished(self) -> bool:
        """Whether the file has been joined; of a folder, its parts tell."""
        return self.is_text and self.path.exists()

    def done(self) -> dict[int, Counts]:
        """Finished parts by their numbers.

        Raises:
            SinkError: One is not what was written.
        """
        return {int(path.stem.partition("-")[2]): self._count(path) for path in self._parts()}

    def tables(self) -> Iterator[tuple[int, pyarrow.Table]]:
        """Finished rows in the order of the input, a few thousand at a time, each with the number of its part."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        for path in self._parts():
            with ParquetFile(path) as part:
                for batch in part.iter_batches(_GROUP):
                    yield int(path.stem.partition("-")[2]), pa.Table.from_batches([batch])

    def write(self, number: int, tables: Iterable[pyarrow.Table]) -> Counts:
        """Write a part, all of it or nothing.

        Raises:
            SinkError: The disk is full, or gone.
            Exception: Whatever `tables` raises.
        """
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        path = self.folder / f"part-{number:06d}.parquet"
        waiting, rows = [], 0
        with _written(path), replacing(path) as temporary, ParquetWriter(temporary, self._schema) as writer:
            for table in tables:
                waiting.append(table)
                rows += table.num_rows
                if rows >= _GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting, rows = [], 0
            writer.write_table(pa.concat_tables([self._schema.empty_table(), *waiting]))
        return self._count(path)

    def finish(self) -> None:
        """Join the parts, where they are to be one file.

        Raises:
            SinkError: The disk is full, or gone.
        """
        if not self.is_text:
            return
        with _written(self.path), replacing(self.path) as temporary:
            write_text(temporary, SUFFIXES[self.path.suffix.lower()], (table for _, table in self.tables()))
        shutil.rmtree(self.folder)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _count(self, path: Path) -> Counts:
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(path) as part:
                errors = part.read(self._schema.names[-1:]).column(0)  # the last of `ClassifyBatch.fields`
        except Exception as error:
            raise SinkError(f"{path} is damaged ({first_line(error)}): remove it, and it is made again") from error
        return Counts(len(errors), len(errors) - errors.null_count)

    def _check_path(self) -> None:
        """Raises UsageError."""
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path}: the folder {self.path.parent} does not exist") from missing(
                self.path.parent
            )
        if self.is_text != self.path.is_file() and self.path.exists():
            kind = "a folder" if self.is_text else "a file, and no .jsonl or .csv"
            raise UsageError(f"{self.path} is {kind}: name another --output")

    def _begin(self) -> None:
        """Compare what the rows are to be made of with what those that are there were made of, or keep it.

        Raises:
            UsageError: They are others, or nobody knows.
        """
        there = self.path.is_file() or (self.folder.is_dir() and any(self.folder.iterdir()))
        if there and not self._run_file.exists():
            raise UsageError(f"{self.path} is there, and no attri-batch wrote it: name another --output")
        if there:
            try:
                found = json.loads(self._run_file.read_bytes())
            except ValueError as error:
                raise UsageError(f"{self._run_file} is damaged: name another --output") from error
            wanted = json.loads(json.dumps(self._run))
            if differ := [name for name in wanted if name not in found or found[name] != wanted[name]]:
                others = f"{self.path} has rows of another command ({', '.join(differ)})"
                raise UsageError(f"{others}: name another --output, or remove it")
        else:
            write_file(self._run_file, (json.dumps(self._run, indent=2, ensure_ascii=False) + "\n").encode())
        if self.finished:
            shutil.rmtree(self.folder, ignore_errors=True)  # where a kill came between joining and that
        else:
            self.folder.mkdir(exist_ok=True)


def _beside(path: Path, what: str) -> Path:
    """A hidden name beside a file or folder."""
    path = path.absolute()
    return path.with_name(f".{path.name}.{what}")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Errors of the disk, as one line."""
    try:
        yield
    except AttriError:
        raise
    except OSError as error:
        raise SinkError(f"{path} cannot be written: {error.strerror or error}") from error
