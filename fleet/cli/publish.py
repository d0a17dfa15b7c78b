"""attri-bundle on the workstation: a repository, and what it offers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attri.fleet.channel import Channel
from attri.fleet.cli.options import (
    CHANNEL,
    KEY_FOLDERS,
    MQTT,
    MQTT_PASSWORD,
    PASSPHRASE,
    PASSPHRASE_FILE,
    PATH,
    PIN,
    REPO,
    WAVE,
    Percent,
    as_one,
    open_broker,
)
from attri.fleet.repository.roles import OWNERS, ROLES, Owner
from attri.runtime._util.secrets import read_secret
from attri.runtime._util.wording import plural
from attri.runtime.cli.command import KEYS, REPORTS, REPOSITORY, Command, option
from attri.runtime.errors import FailedError, RefusedError, UsageError

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from attri.fleet.repository.keys import Keys
    from attri.fleet.repository.repository import Repository

_LOGGER = logging.getLogger("attri")
DAYS = option(
    REPOSITORY,
    "--days",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Days until devices take the repository for out of date, unless it is refreshed.",
)
COUNT = option(KEYS, "--count", type=click.IntRange(1), help="Keys to make; init-repo: of root. [1; rotate: as many]")
THRESHOLD = option(
    KEYS, "--threshold", type=click.IntRange(1), help="How many of them have to sign. [1; rotate: as many as before]"
)
ELSEWHERE = option(
    KEYS,
    "--key",
    "elsewhere",
    multiple=True,
    metavar="OWNER=URI,PEM",
    help="Key in a hardware module or at a service: its URI, and a PEM file of its public half. [files in --keys]",
)


@dataclass(frozen=True)
class Signing:
    """Values of the options of all commands that sign: the repository, and with which keys."""

    repo: Path
    keys: tuple[Path, ...]
    passphrase_file: Path | None
    days: int

    def open(self, *, new: bool = False) -> tuple[Repository, list[Keys]]:
        """The repository and its keys; a new passphrase is asked for twice."""
        from attri.fleet.repository.keys import Keys
        from attri.fleet.repository.metadata import SignedMetadata
        from attri.fleet.repository.repository import Repository

        def passphrase() -> str:
            found = read_secret(PASSPHRASE, self.passphrase_file)
            if found is None and not os.isatty(0):
                raise UsageError(f"the keys have a passphrase: give it by --passphrase-file or ${PASSPHRASE}")
            if found is None:
                found = str(click.prompt("passphrase of the keys", hide_input=True, err=True, confirmation_prompt=new))
            return found

        def pin(uri: str) -> str:
            found = os.environ.get(PIN)
            if found is None and not os.isatty(0):
                raise UsageError(f"the key {uri} has a PIN: give it by ${PIN}")
            return found or str(click.prompt(f"PIN of the key {uri}", hide_input=True, err=True))

        folders = [Keys(folder, passphrase, pin) for folder in self.keys]
        days = {"snapshot": self.days, "timestamp": self.days}
        metadata = SignedMetadata(self.repo / "metadata", folders, days)
        if not new:
            metadata.require()
        return Repository(self.repo, metadata), folders


signing_options = as_one("signing", Signing, REPO, KEY_FOLDERS, PASSPHRASE_FILE, DAYS)


@click.command("init-repo", cls=Command)
@signing_options
@COUNT
@THRESHOLD
@ELSEWHERE
def init_repo(
    signing: Signing,
    count: int | None,
    threshold: int | None,
    elsewhere: tuple[str, ...],
) -> int:
    """Make a repository, and its keys.

    Those of root say which others count; that of targets signs what is pushed; the online key, which a server may have,
    signs that this is the newest.
    """
    repo, (repository, folders) = signing.repo, signing.open(new=True)
    if list((repo / "metadata").glob("*.root.json")):
        raise UsageError(f"{repo} is a repository already: rotate changes its keys")
    with repository.lock():
        found = _registered(elsewhere, folders[0])
        _check_threshold(threshold or 1, len(found.get("root", [])) or count or 1)
        owned = {
            owner: found.get(owner) or [folders[0].create(owner) for _ in range((count or 1) if owner == "root" else 1)]
            for owner in OWNERS
        }
        repository.metadata.create(owned, {"root": threshold or 1, "targets": 1, "online": 1})
    root = repo / "metadata" / "1.root.json"
    _LOGGER.info("%s: a repository; its keys are in %s", repo, folders[0].folder)
    _LOGGER.info("give each device %s as --root, by a way that you trust; keep the keys of root offline", root)
    return 0


@click.command(cls=Command)
@click.argument("path", type=PATH)
@signing_options
@CHANNEL
@WAVE
def push(path: Path, signing: Signing, channel: str, wave: float | None) -> int:
    """Offer a bundle or a prompt file.

    A prompt takes the place of that in the newest release of the channel: devices fetch it alone.
    """
    repository, _ = signing.open()
    with repository.lock():
        _show(repository.push(path, channel, wave))
    return 0


@click.command(cls=Command)
@signing_options
@CHANNEL
@WAVE
@MQTT
@MQTT_PASSWORD
@option(REPORTS, "--max-failed", type=Percent(), metavar="PERCENT", help="Revoke instead, where more devices failed.")
@option(REPORTS, "--least", type=click.IntRange(1), help="Wait, until so many devices have committed it. [1]")
def promote(
    signing: Signing,
    channel: str,
    wave: float | None,
    mqtt: str | None,
    mqtt_password_file: Path | None,
    max_failed: float | None,
    least: int | None,
) -> int:
    """Offer the candidate to more devices, or to all.

    With --mqtt and --max-failed only if it fares well, by the reports of the devices; if not, it is revoked, and the
    exit code is 4. While too few have reported, nothing changes, and it is 1.
    """
    broker = open_broker(mqtt, mqtt_password_file)
    if (broker is None) != (max_failed is None) or (least is not None and broker is None):
        raise UsageError("--mqtt and --max-failed go together, and --least with them")
    if broker is None or max_failed is None:
        return _change(lambda found: found.promote(wave), signing, channel)
    from attri.fleet.reports import read_reports, share_of

    repository, _ = signing.open()
    with repository.lock():
        found = repository.channel(channel)
        release = found.promote(wave).find(found.candidate)
        assert release is not None
        share = share_of(release, read_reports(broker))
        said = f"release {release.name}: {share.committed} committed, {share.failed} failed, {share.waiting} at it"
        if share.percent_failed > max_failed:
            _show(repository.change(channel, Channel.revoke))
            raise RefusedError(f"{said}: more than {max_failed:g}% failed, it was revoked")
        if share.committed < (least or 1):
            raise FailedError(f"{said}: too few to promote it, ask again later")
        _LOGGER.info(said)
        _show(repository.change(channel, lambda found: found.promote(wave)))
    return 0


@click.command(cls=Command)
@signing_options
@CHANNEL
def revoke(signing: Signing, channel: str) -> int:
    """Take back the candidate, or the current release."""
    return _change(Channel.revoke, signing, channel)


@click.command(cls=Command)
@signing_options
def refresh(signing: Signing) -> int:
    """Sign again that this is the newest, before that expires.

    The online key is enough.
    """
    repository, _ = signing.open()
    with repository.lock():
        repository.metadata.renew()
        _LOGGER.info("%s is up to date until %s", signing.repo, repository.metadata.expiry()["timestamp"].date())
    return 0


@click.command(cls=Command)
@click.argument("owner", type=click.Choice(OWNERS), metavar="root|targets|online")
@signing_options
@COUNT
@THRESHOLD
@ELSEWHERE
def rotate(
    owner: Owner,
    signing: Signing,
    count: int | None,
    threshold: int | None,
    elsewhere: tuple[str, ...],
) -> int:
    """Replace keys.

    Devices follow by themselves, and the old keys count no more.
    """
    repository, folders = signing.open()
    with repository.lock():
        before = repository.metadata.root().signed.roles[ROLES[owner][0]]
        found, wanted = _registered(elsewhere, folders[0]).get(owner), threshold or before.threshold
        _check_threshold(wanted, len(found or []) or count or len(before.keyids))
        new = found or [folders[0].create(owner) for _ in range(count or len(before.keyids))]
        repository.metadata.rotate(owner, new, wanted)
    _LOGGER.info("%s: new %s of %s in %s", signing.repo, plural(len(new), "key"), owner, folders[0].folder)
    return 0


COMMANDS = (init_repo, push, promote, revoke, refresh, rotate)


def _change(change: Callable[[Channel], Channel], signing: Signing, channel: str) -> int:
    repository, _ = signing.open()
    with repository.lock():
        _show(repository.change(channel, change))
    return 0


def _registered(words: tuple[str, ...], keys: Keys) -> dict[Owner, list[Key]]:
    """The keys of --key, by their owner."""
    found: dict[Owner, list[Key]] = {}
    for word in words:
        name, _, rest = word.partition("=")
        owner = next((each for each in OWNERS if each == name), None)
        uri, _, pem = rest.rpartition(",")
        if owner is None or not uri or not pem:
            raise UsageError(f"--key {word}: write {'|'.join(OWNERS)}=URI,PEM")
        found.setdefault(owner, []).append(keys.register(uri, Path(pem)))
    return found


def _check_threshold(threshold: int, keys: int) -> None:
    if threshold > keys:
        raise UsageError(f"--threshold {threshold} is more than there are keys, {keys}: raise --count")


def _show(channel: Channel) -> None:
    for line in describe(channel):
        click.echo(line)


def describe(channel: Channel) -> list[str]:
    """A channel in lines for people."""
    rows = []
    if candidate := channel.find(channel.candidate):
        rows.append((candidate, f"{channel.wave:g}% of the devices"))
    if current := channel.find(channel.current):
        rows.append((current, "the others" if candidate else "all devices"))
    if not rows:
        return [f"{channel.name}: nothing is offered"]
    return [
        f"{channel.name}: {each.name} for {who} ({each.kind}, {each.size / 1e6:.1f} MB, {each.created})"
        for each, who in rows
    ]
