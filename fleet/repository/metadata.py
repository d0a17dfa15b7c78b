"""Signed metadata of a repository, by The Update Framework: four roles, their keys, versions and expiry.

metadata/N.root.json       which keys may sign for which role; signed by the keys before and after a rotation
metadata/N.targets.json    size and sha256 of the channels' documents
metadata/N.snapshot.json   which targets.json is the current one, so that old and new are never mixed
metadata/timestamp.json    which snapshot is; expires soon, so that nobody can hide what is new for long

`root` and `targets` have keys of their own; `snapshot` and `timestamp` share the online key, which a server may have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import StorageError
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from attri.fleet.repository.keys import Keys
from attri.fleet.repository.roles import DAYS, ROLES, Owner
from attri.runtime._util.atomic import write_file
from attri.runtime.errors import FailedError, UsageError

_TYPES = {"targets": Targets, "snapshot": Snapshot, "timestamp": Timestamp}


class SignedMetadata:
    """The folder metadata/ of a repository.

    Args:
        folder: that one.
        keys: what is signed with; several folders of keys may belong to several people.
        days: until signatures expire, by role.
    """

    def __init__(self, folder: Path, keys: Iterable[Keys], days: Mapping[str, int] = DAYS) -> None:
        self.folder = folder
        self._keys = list(keys)
        self._days = {**DAYS, **days}

    def create(self, keys: Mapping[Owner, list[Key]], thresholds: Mapping[Owner, int]) -> None:
        """Write the first version of all.

        Raises:
            UsageError: a threshold is more than there are keys of it here.
        """
        root = Root(consistent_snapshot=True)
        for owner, roles in ROLES.items():
            for role in roles:
                for key in keys[owner]:
                    root.add_key(key, role)
                root.roles[role].threshold = thresholds[owner]
        signed = {"root": Metadata(root), **{role: Metadata(kind()) for role, kind in _TYPES.items()}}
        for role, metadata in signed.items():
            self._sign(role, metadata, root)
        for role, metadata in signed.items():
            self._write(role, metadata)

    def require(self) -> None:
        """Check that there is a repository.

        Raises:
            UsageError: there is none.
        """
        if not any(self.folder.glob("[1-9]*.root.json")):
            raise UsageError(f"{self.folder.parent} is no repository: make one with attri-bundle init-repo")

    def root(self) -> Metadata[Root]:
        """The newest root."""
        versions = [int(file.name.partition(".")[0]) for file in self.folder.glob("[1-9]*.root.json")]
        return self._read(f"{max(versions, default=1)}.root.json")

    def targets(self) -> Metadata[Targets]:
        """The targets that the timestamp leads to; one that was written later counts for nothing."""
        snapshot: Metadata[Snapshot] = self._snapshot()
        return self._read(f"{snapshot.signed.meta['targets.json'].version}.targets.json")

    def timestamp(self) -> Metadata[Timestamp]:
        """The only one that is written over."""
        return self._read("timestamp.json")

    def publish(self, targets: Mapping[str, bytes]) -> None:
        """Sign new contents of targets, and all that leads to them. The timestamp comes last: it makes them count.

        Args:
            targets: contents by path.

        Raises:
            UsageError: a key is not here.
            FailedError: it cannot be written; devices see what was there before.
        """
        metadata = self.targets()
        for path, data in targets.items():
            metadata.signed.targets[path] = TargetFile.from_data(path, data, ["sha256"])
        self._next("targets", metadata)
        self.renew()

    def renew(self) -> None:
        """Sign snapshot and timestamp again, for the newest targets, before they expire: the online key is enough."""
        snapshot, timestamp = self._snapshot(), self.timestamp()
        written = [int(file.name.partition(".")[0]) for file in self.folder.glob("[1-9]*.targets.json")]
        snapshot.signed.meta["targets.json"] = MetaFile(max(written))
        self._next("snapshot", snapshot)
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        self._next("timestamp", timestamp)

    def rotate(self, owner: Owner, new: list[Key], threshold: int) -> None:
        """Put new keys in the place of those of an owner, and sign again what these had signed.

        Raises:
            UsageError: keys of root are not here, neither the old nor the new.
        """
        old = self.root()
        root = copy.deepcopy(old)
        for role in ROLES[owner]:
            for keyid in list(root.signed.roles[role].keyids):
                root.signed.revoke_key(keyid, role)
            for key in new:
                root.signed.add_key(key, role)
            root.signed.roles[role].threshold = threshold
        root.signed.version += 1
        self._sign("root", root, old.signed, root.signed)
        self._write("root", root)
        if owner == "targets":
            self._next("targets", self.targets())
        if owner != "root":
            self.renew()

    def expiry(self) -> dict[str, datetime]:
        """When each role's signature ends."""
        signed: dict[str, Any] = {"root": self.root(), "targets": self.targets(), "snapshot": self._snapshot()}
        return {role: each.signed.expires for role, each in (signed | {"timestamp": self.timestamp()}).items()}

    def _snapshot(self) -> Metadata[Snapshot]:
        return self._read(f"{self.timestamp().signed.snapshot_meta.version}.snapshot.json")

    def _next(self, role: str, metadata: Metadata[Any]) -> None:
        metadata.signed.version += 1
        self._sign(role, metadata, self.root().signed)
        self._write(role, metadata)

    def _sign(self, role: str, metadata: Metadata[Any], *roots: Root) -> None:
        """Sign with all keys that are here, enough for each of the roots."""
        moment = datetime.now(timezone.utc).replace(microsecond=0)
        metadata.signed.expires = moment + timedelta(days=self._days[role])
        metadata.signatures.clear()
        for root in roots:
            signed = 0
            for keyid in root.roles[role].keyids:
                found = (keys.signer(root.keys[keyid]) for keys in self._keys)
                if signer := next((each for each in found if each is not None), None):
                    try:
                        metadata.sign(signer, append=True)
                    except UnsignedMetadataError as error:  # whose cause says it, sometimes by its name alone
                        if isinstance(error.__cause__, UsageError):
                            raise error.__cause__ from None
                        said = str(error.__cause__) or type(error.__cause__).__name__
                        raise UsageError(f"a key of {role} does not sign: {said}") from error
                    signed += 1
            if signed < root.roles[role].threshold:
                needed = f"{root.roles[role].threshold} of the keys of {role}, {signed} here"
                folders = ", ".join(str(keys.folder) for keys in self._keys)
                raise UsageError(f"this takes {needed} ({folders}): name the folders that hold them by --keys")

    def _read(self, name: str) -> Metadata[Any]:
        self.require()
        try:
            return Metadata.from_file(str(self.folder / name))
        except (OSError, RepositoryError, StorageError) as error:
            raise FailedError(f"{self.folder / name} cannot be read: {error}") from error
        except Exception as error:
            raise FailedError(f"{self.folder / name} is damaged: {error}") from error

    def _write(self, role: str, metadata: Metadata[Any]) -> None:
        name = f"{role}.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / name, metadata.to_bytes(JSONSerializer(compact=False)))
        except OSError as error:
            raise FailedError(f"{self.folder / name} cannot be written: {error.strerror or error}") from error
