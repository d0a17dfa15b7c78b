"""Where TensorRT's engines are kept, and which of them may be loaded.

An engine is a plan NAME.KEY.plan, and beside it NAME.KEY.json with all that it was built from and for. A plan is code
that runs on the GPU, and on the host where it brings its own runtime: only those are loaded that this user built on
this machine, shown by a seal with a key that never leaves it, or whose sha256 stands in the bundle's manifest.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from attri.runtime._util.atomic import create_file, write_files
from attri.runtime._util.system import state_folder
from attri.runtime.errors import EngineError

SCHEMA = 1
AMPERE = (8, 0)
KEY_FILE = "plans.key"
KEY_BYTES = 32
# Fields of a record, of its key and of that key's machine, and the JSON type of each.
_RECORD: dict[str, type] = {"schema": int, "key": dict, "built": str, "plan": dict, "figures": dict}
_KEY: dict[str, type] = {"name": str, "graph": str, "machine": dict, "precision": str, "ranges": dict}
_KEY |= {"hardware_compatible": bool, "version_compatible": bool}
_MACHINE: dict[str, type] = {"tensorrt": str, "gpu": str, "capability": str, "system": str}
_VERSION = re.compile(r"[0-9]{1,9}(\.\w{1,20})+", re.ASCII)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """What a plan is bound to."""

    tensorrt: str
    gpu: str
    capability: str  # "8.7"
    system: str  # as `attri.runtime.engines.tensorrt.cuda.system` tells

    def __str__(self) -> str:
        what = f"compute capability {self.capability}, {self.system or 'unknown system'}"
        return f"TensorRT {self.tensorrt} on {self.gpu} ({what})"


@dataclass(frozen=True)
class EngineKey:
    """All that makes one plan another."""

    name: str  # of the graph, without its suffix
    graph: str  # sha256 of the ONNX file
    machine: Machine
    precision: str
    ranges: Mapping[str, tuple[int, int, int]]
    hardware_compatible: bool = False
    version_compatible: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()[:16]


@dataclass(frozen=True)
class CachedEngine:
    """A verified engine, which may be loaded.

    Attributes:
        data: the bytes that were verified. The file may have been replaced since; these have not.
    """

    path: Path
    key: EngineKey
    built: str  # UTC, ISO 8601
    figures: dict[str, Any]
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class _Record:
    """An engine's JSON file, well-formed but not yet verified.

    Attributes:
        content: the JSON, all of it.
        sha256, size: of the file.
    """

    file: Path
    key: EngineKey
    content: dict[str, Any]
    sha256: str
    size: int

    @property
    def path(self) -> Path:
        return self.file.with_suffix(".plan")

    @property
    def built(self) -> str:
        return str(self.content["built"])


class EngineCache:
    """The engines of one bundle.

    Args:
        folder: bundle/engines, or another.
        listed: sha256 by file name of those that the bundle's manifest lists.
    """

    def __init__(self, folder: Path, listed: Mapping[str, str] | None = None) -> None:
        self.folder, self.listed = folder, listed or {}

    def find(self, name: str, graph: str, machine: Machine, digest: str | None = None) -> CachedEngine | None:
        """The newest plan of a graph (its sha256) that fits this machine; None where none was built for it.

        Args:
            digest: only the plan of this key.

        Raises:
            EngineError: there is one, but it is damaged, or built by someone else.
        """
        records, refused = [], ""
        for file in self._files(name, digest):
            try:
                record = _read(file)
            except EngineError as error:
                refused = str(error)
                continue
            if record.key.graph == graph and fits(record.key, machine):
                records.append(record)
        for record in sorted(records, key=lambda record: record.built, reverse=True):
            try:
                return self._verify(record)  # one at a time: plans are large
            except EngineError as error:
                refused = str(error)
        if refused:
            raise EngineError(f"{refused}; this is {machine}: --rebuild-engines makes a new one")
        return None

    def foreign(self, name: str, machine: Machine) -> list[str]:
        """Machines that have a plan of this name, and are not this one."""
        found = set()
        for file in self._files(name):
            with suppress(EngineError):
                key = _read(file).key
                if not fits(key, machine):
                    found.add(str(key.machine))
        return sorted(found)

    def portable(self) -> dict[str, dict[str, Any]]:
        """Files of the engines that were built here for other machines too: size and sha256 by name, of what was
        verified, which is what a manifest may list."""
        entries = {}
        for file in self._files("*"):
            with suppress(EngineError):
                record = _read(file)
                if record.key.hardware_compatible or record.key.version_compatible:
                    size = len(self._verify(record).data)
                    entries[record.path.name] = {"size": size, "sha256": record.content["plan"]["sha256"]}
                    entries[file.name] = {"size": record.size, "sha256": record.sha256}
        return entries

    def save(self, key: EngineKey, plan: bytes, figures: Mapping[str, Any]) -> CachedEngine:
        """Write a plan and, last, since it makes the plan count, its JSON. Raises EngineError where it cannot."""
        path = self.folder / f"{key.name}.{key.digest}.plan"
        built = datetime.now(timezone.utc).isoformat()
        record = {
            "schema": SCHEMA,
            "key": asdict(key),
            "built": built,
            "plan": {"size": len(plan), "sha256": hashlib.sha256(plan).hexdigest()},
            "figures": dict(figures),
        }
        record["seal"] = seal(record)
        text = json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"
        self.write({path.name: plan, path.with_suffix(".json").name: text})
        return CachedEngine(path, key, built, dict(figures), plan)

    def timing_cache(self, machine: Machine) -> bytes:
        """What earlier builds measured; b"" where nothing was, or someone else did."""
        path = self.folder / _timing(machine)
        try:
            mark, data = path.with_suffix(".seal").read_text(encoding="ascii"), path.read_bytes()
        except (OSError, ValueError):
            return b""
        return data if hmac.compare_digest(mark, _mac(data)) else b""

    def save_timing_cache(self, machine: Machine, data: bytes) -> None:
        path = self.folder / _timing(machine)
        self.write({path.name: data, path.with_suffix(".seal").name: _mac(data).encode()})

    def write(self, files: Mapping[str, bytes]) -> None:
        """Files of the folder by name: all of them whole, or where one cannot be written those of before."""
        try:
            write_files({self.folder / name: data for name, data in files.items()})
        except OSError as error:
            raise EngineError(f"cannot write to {self.folder}: {error.strerror}") from error

    def keep_only(self, key: EngineKey) -> None:
        """Drop what else `find` would find or refuse in the place of this plan."""
        for file in self._files(key.name):
            try:
                other = _read(file).key
            except EngineError:
                other = None
            if other is None or (other != key and other.graph == key.graph and fits(other, key.machine)):
                self._remove(file)

    @contextmanager
    def lock(self, tell: Tell) -> Iterator[None]:
        """One process builds at a time; another waits, and finds what the first has built.

        Raises:
            EngineError: the folder cannot be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("ab")
        except OSError as error:
            raise EngineError(
                f"engines cannot be kept in {self.folder} ({error.strerror}): name a folder with --engine-dir"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"another process builds engines in {self.folder}: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _files(self, name: str, digest: str | None = None) -> list[Path]:
        """Records of a graph: of "vision", but not of "vision.s8"."""
        return sorted(self.folder.glob(f"{name}.{digest or '[0-9a-f]' * 16}.json"))

    def _remove(self, file: Path) -> None:
        """Drop a record, first, since it makes the plan count, and its plan. Raises EngineError where it cannot."""
        try:
            file.unlink(missing_ok=True)
            file.with_suffix(".plan").unlink(missing_ok=True)
        except OSError as error:
            raise EngineError(f"cannot remove {file}: {error.strerror}") from error

    def _verify(self, record: _Record) -> CachedEngine:
        """The plan is the one of the record, and the record is ours or the manifest lists both. Raises EngineError."""
        what = f"{record.path}, built for {record.key.machine},"
        try:
            data = record.path.read_bytes()
        except OSError as error:
            raise EngineError(f"{what} cannot be read ({error.strerror})") from error
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != record.content["plan"]["sha256"]:
            raise EngineError(f"{what} is damaged")
        both = {record.path.name: sha256, record.file.name: record.sha256}
        if not both.items() <= self.listed.items() and not _is_sealed(record.content):
            raise EngineError(f"{what} was not built on this machine by this user, and plans are code")
        return CachedEngine(record.path, record.key, record.built, record.content["figures"], data)


def _read(file: Path) -> _Record:
    """A record, with every field of its type. Raises EngineError where it cannot be read or is not well-formed."""
    try:
        text = file.read_bytes()
        content = json.loads(text.decode())
        _require(content, _RECORD)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        _require(content["plan"], {"size": int, "sha256": str})
        _canonical(content)  # nested too deeply for the seal? then here
        return _Record(file, _key(content["key"]), content, hashlib.sha256(text).hexdigest(), len(text))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{file} is damaged ({error})") from error


def _key(fields: dict[str, Any]) -> EngineKey:
    """The key of a record. Raises ValueError where a field is missing, unknown, or of no use."""
    _require(fields, _KEY, closed=True)
    machine = {"system": ""} | fields["machine"]  # early records lack it, and fit nowhere
    _require(machine, _MACHINE, closed=True)
    if not all(_VERSION.fullmatch(machine[name]) for name in ("tensorrt", "capability")):
        raise ValueError("a version is not one")
    if not all(value.isprintable() for value in machine.values()):
        raise ValueError("a machine's name is not printable")
    if not all(_is_range(each) for each in fields["ranges"].values()):
        raise ValueError("a range is not three whole numbers")
    ranges = {dim: tuple(each) for dim, each in fields["ranges"].items()}
    return EngineKey(**fields | {"machine": Machine(**machine), "ranges": ranges})


def _require(value: Any, kinds: Mapping[str, type], closed: bool = False) -> None:
    """`value` is an object with these fields, each exactly of its type; `closed`: and no others. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if wrong := [name for name, kind in kinds.items() if type(value.get(name)) is not kind]:
        raise ValueError(f"{', '.join(wrong)} missing or of another type")
    if closed and (unknown := value.keys() - kinds.keys()):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and [type(each) for each in value] == [int] * 3


def fits(key: EngineKey, machine: Machine) -> bool:
    """Whether TensorRT would take the plan here, as far as its key tells."""
    theirs, ours = _numbers(key.machine.tensorrt), _numbers(machine.tensorrt)
    version = theirs == ours or (key.version_compatible and theirs[0] == ours[0] and theirs <= ours)
    same = (key.machine.gpu, key.machine.capability) == (machine.gpu, machine.capability)
    gpu = same or (key.hardware_compatible and _numbers(machine.capability) >= AMPERE)
    return version and gpu and key.machine.system == machine.system


def seal(record: Mapping[str, Any]) -> str:
    """HMAC-SHA256 of a record without its seal. Raises EngineError where no key can be kept."""
    rest = {name: value for name, value in record.items() if name != "seal"}
    return _mac(_canonical(rest))


def _is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether the record carries the seal of this user on this machine."""
    return hmac.compare_digest(str(record.get("seal")).encode(errors="replace"), seal(record).encode())


def _mac(data: bytes) -> str:
    return hmac.new(_secret(), data, hashlib.sha256).hexdigest()


def _timing(machine: Machine) -> str:
    return f"timing.{hashlib.sha256(str(machine).encode()).hexdigest()[:16]}.cache"


def _secret() -> bytes:
    """This user's key on this machine, made at first use and readable by nobody else."""
    path = Path("$XDG_STATE_HOME/attri", KEY_FILE)  # as it is called where there is no home
    try:
        path = state_folder() / KEY_FILE
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            create_file(path, secrets.token_bytes(KEY_BYTES), mode=0o600)
        key = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise EngineError(
            f"the key that marks this machine's engines cannot be kept at {path} ({error}):"
            " point XDG_STATE_HOME to a folder that can be written"
        ) from error
    if len(key) != KEY_BYTES:  # anyone can seal with a key of nothing
        raise EngineError(f"{path} is damaged, it has {len(key)} of {KEY_BYTES} bytes: delete it")
    return key


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
