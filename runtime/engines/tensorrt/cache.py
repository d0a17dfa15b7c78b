"""The engine cache: TensorRT engines on disk, by graph, machine and build options, and which may be loaded.

An engine is a file NAME.DIGEST.plan, and its record NAME.DIGEST.json holds all that it was built from and for. An
engine is code that runs on the GPU, and on the host where it brings its own runtime. So only those are loaded that
this user built on this machine, as the seal of the record shows, or whose sha256 the bundle's manifest lists.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attri.runtime._util.atomic import write_files
from attri.runtime._util.filelock import try_lock, unlock, wait_for_lock
from attri.runtime.engines.base import Progress
from attri.runtime.engines.tensorrt.keys import EngineKey, Machine, is_compatible
from attri.runtime.engines.tensorrt.records import EngineRecord, make_record, read_record
from attri.runtime.engines.tensorrt.trust import is_authentic, is_sealed, mac
from attri.runtime.errors import EngineError


@dataclass(frozen=True)
class CachedEngine:
    """A verified engine, which may be loaded.

    Attributes:
        path: its file.
        key: what it depends on.
        built: time of the build: UTC, ISO 8601.
        figures: what the build measured: parity, shares of types, seconds.
        serialized: the bytes that were verified. The file may have been replaced since.
    """

    path: Path
    key: EngineKey
    built: str
    figures: dict[str, Any]
    serialized: bytes = field(repr=False)


class EngineCache:
    """The engines of one bundle.

    Args:
        folder: bundle/engines, or another.
        trusted_sha256: by file name, of the files that the bundle's manifest lists.
    """

    def __init__(self, folder: Path, trusted_sha256: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.trusted_sha256 = trusted_sha256 or {}

    def find(self, name: str, graph: str, machine: Machine, digest: str | None = None) -> CachedEngine | None:
        """Find the newest engine of a graph that runs on a machine.

        Args:
            name: of the graph, as in its key.
            graph: sha256 of the ONNX file.
            machine: that the engine is to run on.
            digest: take only the engine with this digest of its key.

        Returns:
            The engine, verified; None if none was built for this machine.

        Raises:
            EngineError: there is one, but it is damaged or not to be trusted.
        """
        records, refused = [], ""
        for path in self._record_paths(name, digest):
            try:
                record = read_record(path)
            except EngineError as error:
                refused = str(error)
                continue
            if record.key.graph == graph and is_compatible(record.key, machine):
                records.append(record)
        for record in sorted(records, key=lambda record: record.built, reverse=True):
            try:
                return self._verify(record)  # one at a time: engines are large
            except EngineError as error:
                refused = str(error)
        if refused:
            raise EngineError(f"{refused}; this is {machine}: `rebuild_engines` makes a new one")
        return None

    def other_machines(self, name: str, machine: Machine) -> list[str]:
        """Machines that have an engine of this graph here which does not run on `machine`, in words."""
        found = set()
        for path in self._record_paths(name):
            with suppress(EngineError):
                key = read_record(path).key
                if not is_compatible(key, machine):
                    found.add(str(key.machine))
        return sorted(found)

    def portable_files(self) -> dict[str, dict[str, Any]]:
        """Size and sha256 by file name of trusted engines that also run on other machines, and of their records.

        The figures are of the bytes that were verified, so a manifest may list them.
        """
        files = {}
        for path in self._record_paths("*"):
            with suppress(EngineError):
                record = read_record(path)
                if record.key.hardware_compatible or record.key.version_compatible:
                    size = len(self._verify(record).serialized)
                    files[record.engine_path.name] = {"size": size, "sha256": record.engine_sha256}
                    files[path.name] = {"size": record.size, "sha256": record.sha256}
        return files

    def save(self, key: EngineKey, serialized: bytes, figures: Mapping[str, Any]) -> CachedEngine:
        """Keep an engine.

        Args:
            key: what it depends on.
            serialized: the engine.
            figures: what is worth knowing of its build, for its record.

        Raises:
            EngineError: it cannot be written; what was there stays.
        """
        path = self.folder / f"{key.name}.{key.digest}.plan"
        record = make_record(key, serialized, figures)
        text = json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"
        self._write({path: serialized, path.with_suffix(".json"): text})  # the record last: it makes the engine count
        return CachedEngine(path, key, record["built"], dict(figures), serialized)

    def timing_cache(self, machine: Machine) -> bytes:
        """Kernel timings of earlier builds on this machine; b"" if there are none, or they were made elsewhere."""
        path = self._timing_path(machine)
        try:
            code, data = path.with_suffix(".seal").read_text(encoding="ascii"), path.read_bytes()
        except (OSError, ValueError):
            return b""
        return data if is_authentic(data, code) else b""

    def save_timing_cache(self, machine: Machine, data: bytes) -> None:
        """Keep kernel timings for later builds.

        Raises:
            EngineError: they cannot be written.
        """
        path = self._timing_path(machine)
        self._write({path: data, path.with_suffix(".seal"): mac(data).encode()})

    def evict_others(self, key: EngineKey) -> None:
        """Delete every engine, and every damaged record, that `find` could take or refuse in the place of this one.

        Raises:
            EngineError: a file cannot be deleted.
        """
        for path in self._record_paths(key.name):
            try:
                other = read_record(path).key
            except EngineError:
                other = None
            if other is None or (other != key and other.graph == key.graph and is_compatible(other, key.machine)):
                _remove(path)

    @contextmanager
    def lock(self, progress: Progress) -> Iterator[None]:
        """Hold the lock of the folder: one process builds at a time.

        Args:
            progress: is given a line if another process holds the lock.

        Raises:
            EngineError: the folder cannot be made or written.
        """
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(path)
            if lock is None:
                progress(f"another process builds engines in {self.folder}: waiting for it")
                lock = wait_for_lock(path)
        except OSError as error:
            raise EngineError(
                f"engines cannot be kept in {self.folder} ({error.strerror}): name another folder as `engine_dir`"
            ) from error
        try:
            yield
        finally:
            unlock(path, lock)

    def _record_paths(self, name: str, digest: str | None = None) -> list[Path]:
        """Records of one graph: those of "vision" are not those of "vision.s8"."""
        return sorted(self.folder.glob(f"{name}.{digest or '[0-9a-f]' * 16}.json"))

    def _timing_path(self, machine: Machine) -> Path:
        return self.folder / f"timing.{hashlib.sha256(str(machine).encode()).hexdigest()[:16]}.cache"

    def _write(self, files: Mapping[Path, bytes]) -> None:
        try:
            write_files(files)
        except OSError as error:
            raise EngineError(f"cannot write to {self.folder}: {error.strerror}") from error

    def _verify(self, record: EngineRecord) -> CachedEngine:
        """Read the engine of a record. Raises EngineError unless it is the recorded one and to be trusted."""
        what = f"{record.engine_path}, built for {record.key.machine},"
        try:
            serialized = record.engine_path.read_bytes()
        except OSError as error:
            raise EngineError(f"{what} cannot be read ({error.strerror})") from error
        sha256 = hashlib.sha256(serialized).hexdigest()
        if sha256 != record.engine_sha256:
            raise EngineError(f"{what} is damaged")
        if not self._is_listed(record) and not is_sealed(record.content):
            raise EngineError(f"{what} was not built on this machine by this user, and engines are code")
        return CachedEngine(record.engine_path, record.key, record.built, record.content["figures"], serialized)

    def _is_listed(self, record: EngineRecord) -> bool:
        """Whether the manifest lists both files of an engine as they are."""
        files = {record.engine_path.name: record.engine_sha256, record.path.name: record.sha256}
        return files.items() <= self.trusted_sha256.items()


def _remove(record: Path) -> None:
    """Delete a record and then its engine: without its record it does not count. Raises EngineError."""
    try:
        record.unlink(missing_ok=True)
        record.with_suffix(".plan").unlink(missing_ok=True)
    except OSError as error:
        raise EngineError(f"cannot remove {record}: {error.strerror}") from error
