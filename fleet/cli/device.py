"""attri-bundle on a device: fetch, check and take over what its channel offers."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from attri.fleet.cli.check_options import Checks, check_options
from attri.fleet.cli.options import CHANNEL, FOLDER, MQTT, MQTT_PASSWORD, PATH, Percent, as_one, open_broker
from attri.fleet.cli.publish import describe
from attri.fleet.device.store import Store, open_store
from attri.runtime._util.printable import json_text
from attri.runtime._util.system import read_text
from attri.runtime.cli.command import STORE, Command, option
from attri.runtime.errors import AttriError, UsageError

WHERE = click.argument("where", metavar="URL|FOLDER")
ROOT = option(STORE, "--root", type=PATH, help="The repository's 1.root.json: what to trust, the first time.")
NAME = option(STORE, "--name", help="Name of this device, which decides on its waves. [the machine's id]")
MAX_DISK = option(STORE, "--max-disk", type=click.IntRange(1), help="MB that all files of the store may take. [any]")
PROBATION = option(
    STORE, "--probation", is_flag=True, help="It has to be committed; if not, it goes back at its third start."
)
MAX_REJECTED = option(
    STORE,
    "--max-rejected",
    type=Percent(),
    metavar="PERCENT",
    help="Share of its results on probation that may be none of the labels, else it goes back. [any]",
)
MAX_SHIFT = option(
    STORE,
    "--max-shift",
    type=Percent(),
    metavar="PERCENT",
    help="Total variation distance of its labels on probation to those before, else it goes back. [any]",
)
LEAST_RESULTS = option(
    STORE, "--least-results", type=click.IntRange(1), help="Results that these two bounds need. [200]"
)
AGAIN = option(STORE, "--again", is_flag=True, help="Take releases again that were refused here.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@dataclass(frozen=True)
class Source:
    """Values of the options about what is fetched: from where, for which device, and whom it trusts."""

    where: str
    channel: str
    root: Path | None
    name: str | None
    max_disk: int | None
    again: bool

    def pull(self, store: Store) -> bool:
        """Fetch what is new; whether there is something to verify."""
        from attri.fleet.device import update

        if self.again:
            update.forgive(store)
        most = self.max_disk and self.max_disk << 20
        return update.pull(store, self.where, self.channel, self.root, self.name or machine_name(), most) is not None


source_options = as_one("source", Source, WHERE, CHANNEL, ROOT, NAME, MAX_DISK, AGAIN)


@click.command(cls=Command)
@source_options
@FOLDER
@AS_JSON
def pull(source: Source, folder: Path, as_json: bool) -> int:
    """Fetch what the channel offers.

    What runs stays. A download that broke off goes on.
    """
    with open_store(folder) as store:
        source.pull(store)
        _report(store, as_json)
    return 0


@click.command(cls=Command)
@FOLDER
@check_options
@AS_JSON
def verify(folder: Path, checks: Checks, as_json: bool) -> int:
    """Check what was fetched.

    In a process of its own, with bounds on memory and time. What runs stays.
    """
    from attri.fleet.device import update

    shadow = checks.in_shadow
    with open_store(folder) as store:
        update.verify(store, checks.check, checks.bounds, shadow)
        _report(store, as_json)
    return 0


@click.command(cls=Command)
@FOLDER
@PROBATION
@AS_JSON
def activate(folder: Path, probation: bool, as_json: bool) -> int:
    """Run what was checked; the release before is kept."""
    from attri.fleet.device import update

    with open_store(folder) as store:
        update.activate(store, probation=probation)
        _report(store, as_json)
    return 0


@click.command(cls=Command)
@FOLDER
@AS_JSON
def begin(folder: Path, as_json: bool) -> int:
    """Call this before each start of what runs.

    A release on probation that was started twice before goes back.
    """
    from attri.fleet.device import update

    with open_store(folder) as store:
        update.begin(store)
        _report(store, as_json)
    return 0


@click.command(cls=Command)
@FOLDER
@AS_JSON
def commit(folder: Path, as_json: bool) -> int:
    """End the probation of what runs."""
    from attri.fleet.device import update

    with open_store(folder) as store:
        update.commit(store)
        _report(store, as_json)
    return 0


@click.command("update", cls=Command)
@source_options
@FOLDER
@check_options
@PROBATION
@MQTT
@MQTT_PASSWORD
@AS_JSON
def update_all(
    source: Source,
    folder: Path,
    checks: Checks,
    probation: bool,
    mqtt: str | None,
    mqtt_password_file: Path | None,
    as_json: bool,
) -> int:
    """Pull, verify and activate: for a timer."""
    from attri.fleet.device import update

    shadow = checks.in_shadow
    report = _reporter(mqtt, mqtt_password_file, source.name)
    with open_store(folder) as store, _reporting(store, report):
        if source.pull(store):
            update.verify(store, checks.check, checks.bounds, shadow)
            update.activate(store, probation=probation)
        _report(store, as_json)
    return 0


@click.command(cls=Command)
@WHERE
@CHANNEL
@ROOT
@FOLDER
@NAME
@MAX_DISK
@check_options
@option(
    STORE, "--interval", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds between updates."
)
@option(
    STORE,
    "--probation",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds until a release stays.",
)
@MAX_REJECTED
@MAX_SHIFT
@LEAST_RESULTS
@option(STORE, "--restart/--no-restart", default=True, help="Start COMMAND again for other graphs. [--restart]")
@MQTT
@MQTT_PASSWORD
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def follow(
    folder: Path,
    name: str | None,
    interval: float,
    probation: float,
    max_rejected: float | None,
    max_shift: float | None,
    least_results: int | None,
    restart: bool,
    mqtt: str | None,
    mqtt_password_file: Path | None,
    command: tuple[str, ...],
    **_: Any,
) -> int:
    """Run COMMAND, and keep the bundle that it runs up to date.

    attri-run --follow calls this. A release is on probation at first: if COMMAND fails twice meanwhile, or its results
    are out of bounds, the one before comes back.
    """
    from attri.fleet.device.follow import Following
    from attri.fleet.device.follow import follow as watch_over
    from attri.fleet.device.probation import Probation

    if least_results is not None and max_rejected is None and max_shift is None:
        raise UsageError("`least_results` is for `max_rejected` and `max_shift`: give one of them too")
    bounds = Probation(probation, max_rejected, max_shift, *filter(None, [least_results]))
    values = {**click.get_current_context().params, "probation": True}
    update = [sys.executable, "-m", "attri.fleet.cli.bundle", "update", *_words(update_all, values)]
    report = _reporter(mqtt, mqtt_password_file, name)
    return watch_over(Following(folder, update, command, interval, bounds, restart, report))


@click.command(cls=Command)
@FOLDER
@option(STORE, "--reason", default="asked for", show_default=True, help="Why, for the record.")
@AS_JSON
def rollback(folder: Path, reason: str, as_json: bool) -> int:
    """Go back to the release before.

    The one that runs is not tried again.
    """
    from attri.fleet.device import update

    with open_store(folder) as store:
        update.rollback(store, reason)
        _report(store, as_json)
    return 0


@click.command(cls=Command)
@FOLDER
@option(STORE, "--repo", type=PATH, help="Show a repository instead: its channels, and when its signatures expire.")
@AS_JSON
def status(folder: Path, repo: Path | None, as_json: bool) -> int:
    """Show what runs here, and how far an update is."""
    if repo is None:
        _report(Store(folder), as_json)
        return 0
    from attri.fleet.repository.metadata import SignedMetadata
    from attri.fleet.repository.repository import Repository

    repository = Repository(repo, SignedMetadata(repo / "metadata", []))
    channels, expiry = repository.channels(), repository.metadata.expiry()
    if as_json:
        expires = {role: moment.isoformat() for role, moment in expiry.items()}
        click.echo(json_text({"channels": [each.to_dict() for each in channels], "expires": expires}))
        return 0
    for line in (line for each in channels for line in describe(each)):
        click.echo(line)
    click.echo("signed until: " + ", ".join(f"{role} {moment.date()}" for role, moment in expiry.items()))
    return 0


COMMANDS = (pull, verify, activate, update_all, follow, begin, commit, rollback, status)


def machine_name() -> str:
    """What tells this machine from others: systemd's id of it, or else its name in the network."""
    return read_text(Path("/etc/machine-id")) or socket.gethostname()


def _reporter(mqtt: str | None, password_file: Path | None, name: str | None) -> Callable[..., None]:
    """What tells a broker the state of this device; without one, nobody."""
    broker = open_broker(mqtt, password_file)

    def report(store: Store, error: str | None = None) -> None:
        from attri.fleet.reports import send_report

        if broker is not None:
            send_report(broker, name or machine_name(), store.state.report() | {"error": error})

    return report


@contextmanager
def _reporting(store: Store, report: Callable[..., None]) -> Iterator[None]:
    """Report when the block ends, and with what error."""
    try:
        yield
    except AttriError as error:
        report(store, str(error))
        raise
    report(store)


def _words(command: click.Command, values: Mapping[str, Any]) -> list[str]:
    """The arguments by which a command gets these values."""
    words = []
    for param in command.params:
        value, flag = values.get(str(param.name)), max(param.opts, key=len)
        if isinstance(param, click.Argument):
            words.append(str(value))
        elif isinstance(param, click.Option) and param.is_flag:
            words += [flag] if value else []
        elif value is not None:
            words += [word for each in (value if param.multiple else [value]) for word in (flag, str(each))]
    return words


def _report(store: Store, as_json: bool) -> None:
    """Write what a device has to stdout."""
    state = store.state
    if as_json:
        click.echo(json_text(state.report()))
        return
    click.echo(f"runs      {state.current.name if state.current else 'nothing yet'}")
    if state.previous:
        click.echo(f"before    {state.previous.name}")
    if state.update:
        update, why = state.update, f": {state.update.reason}" if state.update.reason else ""
        click.echo(f"update    {update.release.name} {update.stage}{why}")
