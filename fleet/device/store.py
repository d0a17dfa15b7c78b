"""The folder of a device: what it trusts, what it has fetched, and which release is the current one.

root.json            what is trusted, put there by hand
trust/               what The Update Framework has verified
state.json           how far it is; whatever else is here follows from it
partial/SHA256       files that are being fetched
files/SHA256         files that were fetched and verified, each content once
releases/NAME/       bundles, made of links to these files; engines/ in each leads to the engines of all
engines/             the engine cache of TensorRT
current              link to the release that runs: `attri-run --bundle STORE/current`
live/                what attri-run and attri-bundle tell each other, see `Exchange`
disagreements/       live frames that the last release to be checked in the shadow gives another label
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from attri.fleet.device.state import State, Update
from attri.fleet.release import Release
from attri.runtime._util.atomic import write_file
from attri.runtime._util.filelock import try_lock, unlock
from attri.runtime.bundle import ENGINES
from attri.runtime.deliver.updates.exchange import Exchange
from attri.runtime.errors import AttriError, FailedError, RefusedError, UsageError

REMEMBERED = 50  # releases that were refused


class Store:
    """The folder, for one process at a time: use `open_store`.

    Attributes:
        folder: where it is.
        state: as it is on the disk.
        live: what it tells attri-run, and is told.
        disagreements: folder of images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.live, self.disagreements = folder, live_folder(folder), folder / "disagreements"
        self.state = State.load(folder / "state.json")

    def save(self, **changes: Any) -> None:
        """Change the state, on the disk first.

        Raises:
            OSError: it cannot be written; nothing has changed.
        """
        state = replace(self.state, **changes)
        state.save(self.folder / "state.json")
        self.state = state
        self.live.tell_update(state.report())

    def root(self, given: Path | None) -> bytes:
        """What is trusted.

        Args:
            given: root.json of the repository; needed the first time.

        Raises:
            UsageError: there is none, or another one is trusted already.
        """
        kept = self.folder / "root.json"
        try:
            data = given.read_bytes() if given else None
            if not kept.exists() and data:
                write_file(kept, data)
            trusted = kept.read_bytes()
        except FileNotFoundError as error:
            raise UsageError(
                f"{error.filename} is missing: bring the repository's 1.root.json here by a way that you trust,"
                " and name it by `root`"
            ) from error
        if data not in (None, trusted):
            raise UsageError(f"{self.folder} trusts another root.json than {given}: remove {kept} if that is meant")
        return trusted

    def file(self, sha256: str) -> Path:
        """Where a verified file is."""
        return self.folder / "files" / sha256

    def partial(self, sha256: str) -> Path:
        """Where a file is while it is fetched."""
        return self.folder / "partial" / sha256

    def bundle(self, release: Release) -> Path:
        """Folder of a release."""
        return self.folder / "releases" / release.name

    def keep(self, sha256: str) -> None:
        """Take a file that was verified from partial/ to files/."""
        self.partial(sha256).rename(self.file(sha256))
        _sync(self.folder / "files")

    def assemble(self, release: Release) -> None:
        """Make the folder of a release, whole or not at all; one in which somebody changed a file is made anew."""
        bundle = self.bundle(release)
        files = {name: self.file(entry.sha256) for name, entry in release.files.items()}
        if bundle.exists():
            if all((bundle / name).exists() and (bundle / name).samefile(file) for name, file in files.items()):
                return
            shutil.rmtree(bundle)
        unfinished = bundle.with_name(f".{bundle.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, file in files.items():
            (unfinished / name).hardlink_to(file)
        (self.folder / ENGINES).mkdir(exist_ok=True)
        (unfinished / ENGINES).symlink_to(Path("..", "..", ENGINES))
        _sync(unfinished)
        unfinished.rename(bundle)
        _sync(bundle.parent)

    def point(self) -> None:
        """Let `current` lead to the release that the state names. A reader sees the old one or the new."""
        link, release = self.folder / "current", self.state.current
        if release is None:
            return
        target = Path("releases", release.name)
        if link.is_symlink() and link.readlink() == target:
            return
        temporary = link.with_name(".current.part")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
        _sync(self.folder)

    def prune(self, *wanted: Release) -> None:
        """Remove what neither runs, nor is kept to go back to, nor is wanted."""
        candidate = [self.state.candidate.release] if self.state.candidate else []
        releases = [each for each in (self.state.current, self.state.previous, *candidate, *wanted) if each]
        names = {each.name for each in releases}
        needed = {entry.sha256 for each in releases for entry in each.files.values()}
        for folder in (self.folder / "releases").iterdir():
            if folder.name not in names:
                shutil.rmtree(folder)
        for file in (*(self.folder / "files").iterdir(), *(self.folder / "partial").iterdir()):
            if file.name not in needed:
                file.unlink()

    def size_with(self, release: Release) -> int:
        """Bytes of all files, once a release is here beside what runs and what ran before."""
        releases = [each for each in (self.state.current, self.state.previous, release) if each]
        return sum({entry.sha256: entry.size for each in releases for entry in each.files.values()}.values())

    def refused_with(self, release: Release, reason: str) -> dict[str, str]:
        """What was refused, and this."""
        refused = {**self.state.refused, release.digest: reason}
        return dict(list(refused.items())[-REMEMBERED:])

    def refuse(self, release: Release, reason: str) -> RefusedError:
        """Note that a release is not to be tried again, and return the error that says why."""
        self.save(update=Update(release, "refused", reason), refused=self.refused_with(release, reason))
        return RefusedError(f"release {release.name} is refused: {reason}")


def live_folder(store: Path) -> Exchange:
    """What a store and the attri-run that is started for it tell each other."""
    return Exchange(store / "live")


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Open the folder of a device, finish what a power cut left, and keep other processes out.

    Raises:
        FailedError: it cannot be written, or another attri-bundle is at work.
    """
    lock_file = folder / ".lock"
    try:
        for name in ("files", "partial", "releases"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        lock = try_lock(lock_file)
        if lock is None:
            raise FailedError(f"another attri-bundle is at work in {folder}: wait for it")
        try:
            for left in (*folder.glob(".*.part"), *(folder / "trust").glob("tmp*")):  # by a kill
                left.unlink()
            store = Store(folder)
            store.point()
            store.live.tell_update(store.state.report())
            store.live.withdraw()
            yield store
        finally:
            unlock(lock_file, lock)
    except OSError as error:
        if isinstance(error, AttriError):
            raise
        raise FailedError(f"{error.filename or folder}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
