"""Where rows go: a folder of Parquet parts, of which each appears when it is finished, or one file joined of them.

OUT/part-000000.parquet     a finished part; what was killed half-way is not there
.OUT.attri-batch.json       what the rows were made of, so that no other command mixes its own into them
.OUT.lock                   keeps a second process out while one writes

JSON lines and CSV are joined of such parts in .OUT.parts/, which goes then. Nothing but parts lies in the folder: some
readers of Parquet take every file of a folder for their own, hidden ones too.

In a bucket the names are the same. An object appears there when all of it has arrived, so nothing is renamed.
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime._util.transient import missing
from attri.runtime._util.wording import first_line
from attri.runtime.dataset.output.bucket import BucketPath, Place, opened, whole
from attri.runtime.dataset.output.bucket_lock import BucketLock
from attri.runtime.dataset.output.text import SUFFIXES, check_text, write_text
from attri.runtime.errors import AttriError, FailedError, SinkError, UsageError

if TYPE_CHECKING:
    import pyarrow

_GROUP = 8192  # rows that are written at once, at most
_COUNTING = 16  # threads that look at finished parts: a bucket takes some 100 ms for each
P = TypeVar("P", Path, BucketPath, Place)


class Counts(NamedTuple):
    """Rows of a part."""

    rows: int
    errors: int


def run_file_of(path: P) -> P:
    """The file beside an output that says what its rows were made of."""
    return _beside(path, "attri-batch.json")


class Output:
    """A folder of parts, which one process at a time writes.

    Args:
        path: A folder, or a file whose suffix says JSON lines or CSV; of this machine or in a bucket.
        run: What the rows are made of, as JSON; equal ones give equal rows.
        schema: Of the rows; the parts keep `run` in its metadata, as "attri".

    Raises:
        UsageError: A column cannot be text, where that is asked for.
    """

    def __init__(self, path: Place, run: Mapping[str, Any], schema: pyarrow.Schema) -> None:
        self.path, self._run = path, dict(run)
        self._schema = schema.with_metadata({"attri": json.dumps(self._run, ensure_ascii=False)})
        self.is_text = path.suffix.lower() in SUFFIXES
        self.folder: Place = _beside(path, "parts") if self.is_text else path
        self._run_file = run_file_of(path)
        self._bucket_lock: BucketLock | None = None
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
        with ExitStack() as stack:
            with _written(self.path):
                if isinstance(self.path, Path):
                    self._check_path(self.path)
                    stack.enter_context(_locked(self.path))
                else:
                    self._bucket_lock = BucketLock(_beside(self.path, "lock"), str(self.path))
                    stack.enter_context(self._bucket_lock.held())
                self._begin()
            if isinstance(self.path, Path):
                _clean(self.path, self.folder)
            yield

    @property
    def finished(self) -> bool:
        """Whether the file has been joined; of a folder, its parts tell."""
        return self.is_text and self.path.is_file()

    def done(self) -> dict[int, Counts]:
        """Finished parts by their numbers.

        Raises:
            SinkError: One is not what was written.
        """
        parts = self._parts()
        with ThreadPoolExecutor(_COUNTING) as pool:
            return dict(zip(map(_number_of, parts), pool.map(self._count, parts), strict=True))

    def tables(self) -> Iterator[tuple[int, pyarrow.Table]]:
        """Finished rows in the order of the input, a few thousand at a time, each with the number of its part."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        for path in self._parts():
            with ParquetFile(opened(path)) as part:
                for batch in part.iter_batches(_GROUP):
                    yield _number_of(path), pa.Table.from_batches([batch])

    def write(self, number: int, tables: Iterable[pyarrow.Table]) -> Counts:
        """Write a part, all of it or nothing.

        Raises:
            SinkError: The disk is full, or gone.
            FailedError: Another process writes there now.
            Exception: Whatever `tables` raises.
        """
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        path = self.folder / f"part-{number:06d}.parquet"
        waiting, rows = [], 0
        with _written(path), whole(path) as temporary, ParquetWriter(temporary, self._schema) as writer:
            for table in tables:
                waiting.append(table)
                rows += table.num_rows
                if rows >= _GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting, rows = [], 0
            writer.write_table(pa.concat_tables([self._schema.empty_table(), *waiting]))
            self._check_lock()
        return self._count(path)

    def finish(self) -> None:
        """Join the parts, where they are to be one file.

        Raises:
            SinkError: The disk is full, or gone.
            FailedError: Another process writes there now.
        """
        if not self.is_text:
            return
        self._check_lock()
        with _written(self.path), whole(self.path) as temporary:
            write_text(temporary, SUFFIXES[self.path.suffix.lower()], (table for _, table in self.tables()))
        _remove_all(self.folder)

    def _check_lock(self) -> None:
        """Raises FailedError."""
        if self._bucket_lock is not None:
            self._bucket_lock.check()

    def _parts(self) -> list[Place]:
        return sorted(self.folder.glob("part-*.parquet"), key=str)

    def _count(self, path: Place) -> Counts:
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(opened(path)) as part:
                errors = part.read(self._schema.names[-1:]).column(0)  # the last of `ClassifyBatch.fields`
        except Exception as error:
            raise SinkError(f"{path} is damaged ({first_line(error)}): remove it, and it is made again") from error
        return Counts(len(errors), len(errors) - errors.null_count)

    def _check_path(self, path: Path) -> None:
        """Raises UsageError."""
        if not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist") from missing(path.parent)
        if self.is_text != path.is_file() and path.exists():
            kind = "a folder" if self.is_text else "a file, and no .jsonl or .csv"
            raise UsageError(f"{path} is {kind}: name another --output")

    def _begin(self) -> None:
        """Compare what the rows are to be made of with what those that are there were made of, or keep it.

        Raises:
            UsageError: They are others, or nobody knows.
        """
        there = self.path.is_file() or any(self.folder.glob("*"))
        if there and not self._run_file.is_file():
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
            with whole(self._run_file) as temporary:
                temporary.write_text(json.dumps(self._run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.finished:
            _remove_all(self.folder)  # where a kill came between joining and that
        elif isinstance(self.folder, Path):
            self.folder.mkdir(exist_ok=True)


def _number_of(part: Place) -> int:
    return int(part.stem.partition("-")[2])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises FailedError where another process holds the lock."""
    name = _beside(path, "lock")
    lock = try_lock(name)
    if lock is None:
        raise FailedError(f"another attri-batch writes to {path}: wait for it")
    try:
        yield
    finally:
        unlock(name, lock)


def _clean(path: Path, folder: Place) -> None:
    """Remove what a process that was killed left."""
    beside = _beside(path, "")
    for left in [*Path(str(folder)).glob(".*.part"), *beside.parent.glob(f"{glob.escape(beside.name)}*.part")]:
        left.unlink(missing_ok=True)


def _remove_all(folder: Place) -> None:
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.remove_all()


def _beside(path: P, what: str) -> P:
    """A hidden name beside a file or folder."""
    if isinstance(path, Path):
        path = path.absolute()
    return path.with_name(f".{path.name}.{what}")


@contextmanager
def _written(path: Place) -> Iterator[None]:
    """Errors of the disk, as one line."""
    try:
        yield
    except AttriError:
        raise
    except OSError as error:
        raise SinkError(f"{path} cannot be written: {error.strerror or error}") from error
