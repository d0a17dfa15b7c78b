"""The steps of an update, each of which may be called again at any time: pull, verify, activate, and rollback.

fetched -> verified -> built -> checked -> (trying ->) committed, or refused; later perhaps rolled back. Until it is
activated, what runs is not touched. A step that was cut off by a kill or a power cut is done again by the next call.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from attri.fleet.device.bounded import Bounds, run_bounded
from attri.fleet.device.check import Check
from attri.fleet.device.download import download
from attri.fleet.device.shadow import Shadow, collect
from attri.fleet.device.state import Update
from attri.fleet.device.store import Store
from attri.fleet.device.transport import open_transport
from attri.fleet.release import Release
from attri.runtime._util.wording import plural
from attri.runtime.bundle import SCHEMA, Bundle
from attri.runtime.errors import BundleError, FailedError, RefusedError, TrustError, UsageError

_LOGGER = logging.getLogger("attri")
STARTS = 2  # of a release on probation
RESERVE = 64 << 20  # bytes of the disk that are left free


def pull(
    store: Store, where: str, channel: str, root: Path | None, device: str, most: int | None = None
) -> Release | None:
    """Fetch what a channel offers, as far as it is not here.

    Args:
        store: of this device.
        where: URL or folder of the repository.
        channel: that this device follows.
        root: what to trust, the first time.
        device: name of this device, for waves.
        most: bytes that it may take on the disk together with what runs and what ran before; None is any.

    Returns:
        The release that is here now and waits for `verify`; None where what runs is what is offered.

    Raises:
        TrustError: what is there is not to be trusted.
        RefusedError: it was refused here before, or this attri is too old for it.
        FailedError: it cannot be fetched now; the next call goes on.
    """
    from attri.fleet.device.trust import read_channel

    if store.state.trying is not None:
        raise UsageError(f"release {store.state.trying.release.name} is on probation: commit it, or roll it back")
    transport, trusted = open_transport(where), store.root(root)
    found = read_channel(transport, store.folder / "trust", trusted, channel)
    if found.sequence < store.state.sequences.get(channel, 0):
        raise TrustError(
            f"channel {channel} has sequence {found.sequence}, an older one than {store.state.sequences[channel]} that"
            " was seen here: the repository was put back, or somebody replays it"
        )
    if found.sequence > store.state.sequences.get(channel, 0):
        store.save(sequences={**store.state.sequences, channel: found.sequence})
    wanted, current = found.offered(device), store.state.current
    if wanted is None or (current is not None and wanted.digest == current.digest):
        if store.state.candidate is not None:  # it was taken back meanwhile
            store.save(update=None)
        store.prune()
        _LOGGER.info("channel %s: %s", channel, "nothing new" if wanted else "nothing is offered")
        return None
    if reason := store.state.refused.get(wanted.digest):
        store.prune()
        raise RefusedError(f"release {wanted.name} was refused here ({reason}): push another, or pull with `again`")
    if wanted.schema > SCHEMA:
        raise RefusedError(
            f"release {wanted.name} has schema {wanted.schema}, this attri reads {SCHEMA}: update attri on this machine"
        )
    if most is not None and (taken := store.size_with(wanted)) > most:
        raise RefusedError(f"with release {wanted.name} the store takes {taken >> 20} MB, the bound is {most >> 20} MB")
    candidate = store.state.candidate
    if candidate is None or candidate.release.name != wanted.name:
        if candidate is not None:
            store.save(update=None)
        _fetch(store, where, wanted)
        store.save(update=Update(wanted, "fetched"))
    return wanted


def _fetch(store: Store, where: str, release: Release) -> None:
    transport = open_transport(where)
    store.prune(release)
    missing = {each.sha256: each for each in release.files.values() if not store.file(each.sha256).exists()}
    partial = sum(path.stat().st_size for sha256 in missing if (path := store.partial(sha256)).exists())
    needed = sum(entry.size for entry in missing.values()) - partial
    free = shutil.disk_usage(store.folder).free
    if needed and needed + RESERVE > free:
        raise FailedError(
            f"release {release.name} takes {needed >> 20} MB more, {store.folder} has {free >> 20} MB: make room"
        )
    _LOGGER.info("release %s: fetching %s, %d kB", release.name, plural(len(missing), "file"), needed + 999 >> 10)
    for sha256, entry in missing.items():
        download(transport, f"targets/files/{sha256}", entry, store.partial(sha256))
        store.keep(sha256)
    store.assemble(release)


def verify(store: Store, check: Check, bounds: Bounds, shadow: Shadow | None = None) -> Update:
    """Check the release that was fetched, in processes of their own: what runs goes on whatever happens there.

    Args:
        store: of this device.
        check: what it has to show.
        bounds: on memory and time.
        shadow: what it has to show on the next live frames, where another release runs; None asks for none.

    Returns:
        The update, which may be activated.

    Raises:
        RefusedError: it does not fit, agree or suffice; it is not tried again.
        FailedError: too few live frames came; the next call checks it again.
        UsageError: nothing was fetched, or what is asked for cannot be.
    """
    candidate = store.state.candidate
    if candidate is None:
        raise UsageError(f"{store.folder} has no release to verify: pull one first")
    if candidate.stage == "checked":
        return candidate
    release = candidate.release
    try:
        with Bundle.open(store.bundle(release)):
            store.save(update=Update(release, "verified"))
    except BundleError as error:
        raise store.refuse(release, str(error)) from error
    current, before = store.state.current, store.state.previous
    if before is not None and before.digest == release.digest:
        current = None  # the channel goes back to it, whatever it is compared with
    running = str(store.bundle(current)) if current else ""
    words = [str(store.bundle(release)), running, json.dumps(check.to_dict())]
    try:
        figures = _ask(store, release, "check", words, bounds)
        if shadow is not None and running:
            figures |= _ask_in_shadow(store, release, words, bounds, shadow)
    except RefusedError as error:
        raise store.refuse(release, str(error)) from error
    update = Update(release, "checked", figures=figures)
    store.save(update=update)
    return update


def _ask_in_shadow(store: Store, release: Release, words: list[str], bounds: Bounds, shadow: Shadow) -> dict[str, Any]:
    """Compare a release with what runs, on live frames; its figures."""
    try:
        _LOGGER.info("release %s: waiting for %s", release.name, plural(shadow.frames, "live frame"))
        collect(store.live, shadow)
        folders = [str(store.live.frames), str(store.disagreements)]
        return _ask(store, release, "shadow", [*words, json.dumps(shadow.to_dict()), *folders], bounds)
    finally:
        store.live.withdraw()


def _ask(store: Store, release: Release, part: str, words: list[str], bounds: Bounds) -> dict[str, Any]:
    """Run a part of the check in a process of its own; its figures."""
    figures: dict[str, Any] | None = None
    for line in run_bounded([sys.executable, "-m", f"attri.fleet.device.{part}", *words], bounds):
        found = json.loads(line)
        if found["stage"] == "built":
            store.save(update=Update(release, "built"))
        elif found["stage"] == "usage":
            raise UsageError(found["reason"])
        elif found["stage"] == "refused":
            raise RefusedError(found["reason"])
        else:
            figures = found["figures"]
    if figures is None:
        raise RefusedError("its check ended without an answer")
    return figures


def activate(store: Store, *, probation: bool = False) -> Release:
    """Let the release that was checked take the place of what runs. The one before stays, to go back to.

    Args:
        store: of this device.
        probation: whether it still has to prove itself, see `begin` and `commit`.

    Raises:
        UsageError: none was checked.
    """
    candidate = store.state.candidate
    if candidate is None and store.state.current is not None:
        return store.state.current
    if candidate is None or candidate.stage != "checked":
        raise UsageError(f"{store.folder} has no release that was checked: pull and verify one first")
    before, release = store.state.current, candidate.release
    if store.state.previous is not None and release.digest == store.state.previous.digest:
        before = None  # it was revoked: nothing to go back to
    done = Update(release, "trying" if probation else "committed", figures=candidate.figures)
    store.save(current=release, previous=before, update=done)
    store.point()
    store.prune()
    _LOGGER.info("release %s runs%s", release.name, ", on probation" if probation else "")
    return release


def begin(store: Store) -> None:
    """Note that what runs is being started. A release on probation that was started twice before goes back."""
    if trying := store.state.trying:
        if trying.starts >= STARTS and store.state.previous is not None:
            rollback(store, f"it ended {trying.starts} times while it was on probation")
        else:
            store.save(update=replace(trying, starts=trying.starts + 1))


def commit(store: Store, remark: str = "") -> None:
    """End the probation of what runs: it stays. The remark is kept as the reason."""
    if trying := store.state.trying:
        store.save(update=replace(trying, stage="committed", reason=remark))


def forgive(store: Store) -> None:
    """Forget what was refused, so that it may be tried again."""
    store.save(refused={})


def rollback(store: Store, reason: str) -> Release:
    """Go back to the release before; the one that runs is not tried again.

    Raises:
        UsageError: there is none before.
    """
    current, previous = store.state.current, store.state.previous
    if current is None or previous is None:
        raise UsageError(f"{store.folder} keeps no release to go back to")
    refused = store.refused_with(current, f"rolled back: {reason}")
    store.save(current=previous, previous=None, update=Update(current, "rolled back", reason), refused=refused)
    store.point()
    return previous
