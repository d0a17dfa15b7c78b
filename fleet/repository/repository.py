"""A repository: what is pushed, promoted and revoked, in a folder that any web server, bucket or memory stick holds.

metadata/                               signed, see `attri.fleet.repository.metadata`
targets/channels/SHA256.stable.json     what devices of the channel are to run (`attri.fleet.channel`)
targets/files/SHA256                    files of the releases, each content once

It is written so that a device that reads it meanwhile sees the old state or the new: files come first, the timestamp
last.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from attri.fleet.channel import Channel
from attri.fleet.release import Entry, Kind, Release
from attri.fleet.repository.metadata import SignedMetadata
from attri.runtime._util.atomic import replacing, write_file
from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime.bundle import MANIFEST, PROMPT, Bundle, file_entry, read_manifest
from attri.runtime.errors import BundleError, FailedError, UsageError
from attri.runtime.prompt import Prompt


class Repository:
    """A repository for its publisher.

    Args:
        folder: of the repository.
        metadata: its signed metadata.
    """

    def __init__(self, folder: Path, metadata: SignedMetadata) -> None:
        self.folder = folder
        self.metadata = metadata

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other publishers out of it.

        Raises:
            FailedError: another one is at work.
        """
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(path)
        except OSError as error:
            raise FailedError(f"{self.folder}: {error.strerror or error}") from error
        if lock is None:
            raise FailedError(f"{self.folder} is being written by another attri-bundle: wait for it")
        try:
            yield
        finally:
            unlock(path, lock)

    def channels(self) -> list[Channel]:
        """All of them."""
        targets = self.metadata.targets().signed.targets
        found = []
        for path, target in sorted(targets.items()):
            data = self._channel_file(path, target.hashes["sha256"]).read_bytes()
            target.verify_length_and_hashes(data)
            found.append(Channel.parse(data))
        return found

    def channel(self, name: str) -> Channel:
        """One of them; a new one where there is none of that name."""
        return next((each for each in self.channels() if each.name == name), Channel(name))

    def push(self, path: Path, channel: str, wave: float | None) -> Channel:
        """Offer a bundle, or a prompt in the place of that of the newest release.

        Args:
            path: folder of a bundle, or a prompt file.
            channel: whose devices it is for; a new name makes a channel.
            wave: share of the devices in percent that get it first; None are all.

        Raises:
            BundleError: it is damaged, or the prompt is of another bundle.
            UsageError: there is no bundle yet that the prompt could be for, or a key is missing.
            FailedError: it cannot be written.
        """
        before = self.channel(channel)
        serial = before.sequence + 1
        release = self._bundle(path, serial) if path.is_dir() else self._prompt(path, serial, before)
        return self.change(channel, lambda found: found.push(release, wave))

    def change(self, name: str, change: Callable[[Channel], Channel]) -> Channel:
        """Sign what becomes of a channel, and remove files that no channel needs.

        Raises:
            UsageError, FailedError: nothing has changed for devices.
        """
        changed = change(self.channel(name))
        data = changed.to_bytes()
        target = f"channels/{name}.json"
        file = self._channel_file(target, hashlib.sha256(data).hexdigest())
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, data)
        except OSError as error:
            raise FailedError(f"{file}: {error.strerror or error}") from error
        self.metadata.publish({target: data})
        self._remove_unneeded()
        return changed

    def _bundle(self, path: Path, serial: int) -> Release:
        with Bundle.open(path) as bundle:
            names = sorted(name for name in bundle.manifest.files if "/" not in name)
            sources = {name: bundle.file(name) for name in names}
            files = {name: self.add(source) for name, source in sources.items()}
            for name in (MANIFEST, PROMPT):
                files[name] = self.add(bundle.folder / name)
            return _release(serial, "bundle", bundle.manifest.schema, files)

    def _prompt(self, path: Path, serial: int, channel: Channel) -> Release:
        base = channel.find(channel.candidate) or channel.find(channel.current)
        prompt = Prompt.read(path)
        if base is None:
            raise UsageError(f"channel {channel.name} has no bundle that {path} could be a prompt for: push that first")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(self._file(base.files[MANIFEST].sha256), Path(folder) / MANIFEST)
            read_manifest(folder).require_prompt(prompt, str(path))
        return _release(serial, "prompt", base.schema, {**base.files, PROMPT: self.add(path)})

    def add(self, source: Path) -> Entry:
        """Take a file in, if its content is not there yet.

        Raises:
            FailedError: it cannot be written.
        """
        entry = Entry(**file_entry(source))
        target = self._file(entry.sha256)
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
                    if Entry(**file_entry(temporary)) != entry:
                        raise BundleError(f"{source} was written to while it was read: push it again")
        except OSError as error:
            raise FailedError(f"{target} cannot be written: {error.strerror or error}") from error
        return entry

    def _remove_unneeded(self) -> None:
        channels = self.channels()
        needed = {entry.sha256 for each in channels for release in each.releases for entry in release.files.values()}
        for file in (self.folder / "targets" / "files").iterdir():
            if file.name not in needed:
                file.unlink()

    def _file(self, sha256: str) -> Path:
        return self.folder / "targets" / "files" / sha256

    def _channel_file(self, target: str, sha256: str) -> Path:
        path = self.folder / "targets" / target
        return path.with_name(f"{sha256}.{path.name}")


def _release(serial: int, kind: Kind, schema: int, files: dict[str, Entry]) -> Release:
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    release = Release(serial, created, kind, schema, files)
    try:
        return Release.from_dict(release.to_dict())  # what devices would refuse is not signed
    except ValueError as error:
        raise BundleError(f"this bundle cannot be pushed: {error}") from error
