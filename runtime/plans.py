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
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from attri.runtime.errors import EngineError

SCHEMA = 1
AMPERE = (8, 0)
KEY_BYTES = 32
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """What a plan is bound to."""

    tensorrt: str
    gpu: str
    capability: str  # "8.7"
    system: str  # as `attri.runtime.cuda.system` tells

    def __str__(self) -> str:
        what = f"compute capability {self.capability}, {self.system or 'unknown system'}"
        return f"TensorRT {self.tensorrt} on {self.gpu} ({what})"


@dataclass(frozen=True)
class Key:
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
class Plan:
    """A plan that was found and may be loaded."""

    path: Path
    key: Key
    built: str  # UTC, ISO 8601
    figures: dict[str, Any]

    def read(self) -> bytes:
        return self.path.read_bytes()


class Store:
    """The engines of one bundle.

    Args:
        folder: bundle/engines, or another.
        listed: sha256 by file name of those that the bundle's manifest lists.
    """

    def __init__(self, folder: Path, listed: Mapping[str, str] | None = None) -> None:
        self.folder, self.listed = folder, listed or {}

    def find(self, name: str, graph: str, machine: Machine, digest: str | None = None) -> Plan | None:
        """The newest plan of a graph (its sha256) that fits this machine; None where none was built for it.

        Args:
            digest: only the plan of this key.

        Raises:
            EngineError: there is one, but it is damaged, or built by someone else.
        """
        plans, refused = [], ""
        for file in sorted(self.folder.glob(f"{name}.{digest or '*'}.json")):
            try:
                plan = self._read(file)
                if plan.key.graph == graph and fits(plan.key, machine):
                    self._check(plan, file)
                    plans.append(plan)
            except EngineError as error:
                refused = str(error)
        if not plans and refused:
            raise EngineError(f"{refused}; this is {machine}: --rebuild makes a new one")
        return max(plans, key=lambda plan: plan.built) if plans else None

    def foreign(self, name: str, machine: Machine) -> list[str]:
        """Machines that have a plan of this name, and are not this one."""
        found = set()
        for file in self.folder.glob(f"{name}.*.json"):
            try:
                key = self._read(file).key
            except EngineError:
                continue
            if not fits(key, machine):
                found.add(str(key.machine))
        return sorted(found)

    def portable(self) -> list[str]:
        """Files of the plans that were built here for other machines too."""
        names = []
        for file in sorted(self.folder.glob("*.json")):
            with suppress(EngineError):
                plan = self._read(file)
                self._check(plan, file)
                if plan.key.hardware_compatible or plan.key.version_compatible:
                    names += [plan.path.name, file.name]
        return names

    def save(self, key: Key, plan: bytes, figures: Mapping[str, Any]) -> Plan:
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
        return Plan(path, key, built, dict(figures))

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
        temporaries = {self.folder / f".{name}.{os.getpid()}": self.folder / name for name in files}
        try:
            for temporary, data in zip(temporaries, files.values(), strict=True):
                _write(temporary, data)
            for temporary, file in temporaries.items():
                temporary.replace(file)
        except OSError as error:
            for temporary in temporaries:
                temporary.unlink(missing_ok=True)
            raise EngineError(f"cannot write to {self.folder}: {error.strerror}") from error

    def keep_only(self, key: Key) -> None:
        """Drop what else `find` would find or refuse in the place of this plan."""
        for file in self.folder.glob(f"{key.name}.*.json"):
            try:
                other = self._read(file).key
            except EngineError:
                other = None
            if other is None or (other != key and other.graph == key.graph and fits(other, key.machine)):
                file.unlink()
                file.with_suffix(".plan").unlink(missing_ok=True)

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

    def _read(self, file: Path) -> Plan:
        """The record alone. Raises EngineError where it cannot be read."""
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            key = dict(record["key"])
            key["machine"] = Machine(**{"system": ""} | key["machine"])  # early records lack it, and fit nowhere
            key["ranges"] = {dim: tuple(each) for dim, each in key["ranges"].items()}
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {record['schema']}")
            return Plan(file.with_suffix(".plan"), Key(**key), str(record["built"]), dict(record["figures"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EngineError(f"{file} is damaged ({error})") from error

    def _check(self, plan: Plan, file: Path) -> None:
        """The plan is the one of the record, and the record is ours or the manifest lists both. Raises EngineError."""
        what = f"{plan.path}, built for {plan.key.machine},"
        try:
            text, sha256 = file.read_bytes(), hashlib.sha256(plan.path.read_bytes()).hexdigest()
        except OSError as error:
            raise EngineError(f"{what} cannot be read ({error.strerror})") from error
        record = json.loads(text)
        if sha256 != record["plan"]["sha256"]:
            raise EngineError(f"{what} is damaged")
        both = {plan.path.name: sha256, file.name: hashlib.sha256(text).hexdigest()}
        listed = both.items() <= self.listed.items()
        if not listed and not hmac.compare_digest(str(record.get("seal")), seal(record)):
            raise EngineError(f"{what} was not built on this machine by this user, and plans are code")


def fits(key: Key, machine: Machine) -> bool:
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


def _mac(data: bytes) -> str:
    return hmac.new(_secret(), data, hashlib.sha256).hexdigest()


def _timing(machine: Machine) -> str:
    return f"timing.{hashlib.sha256(str(machine).encode()).hexdigest()[:16]}.cache"


def _secret() -> bytes:
    """This user's key on this machine, made at first use and readable by nobody else."""
    path = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "attri" / "plans.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                temporary.touch(mode=0o600)
                _write(temporary, secrets.token_bytes(KEY_BYTES))
                with suppress(FileExistsError):
                    os.link(temporary, path)  # unlike a rename it takes nobody's place
            finally:
                temporary.unlink(missing_ok=True)
        key = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise EngineError(
            f"the key that marks this machine's engines cannot be kept at {path} ({error}):"
            " point XDG_STATE_HOME to a folder that can be written"
        ) from error
    if len(key) != KEY_BYTES:  # anyone can seal with a key of nothing
        raise EngineError(f"{path} is damaged, it has {len(key)} of {KEY_BYTES} bytes: delete it")
    return key


def _write(file: Path, data: bytes) -> None:
    """A file that is on the disk, so that a rename is never there without what it names."""
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
