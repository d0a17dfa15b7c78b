"""Options that several commands of attri-bundle take, in one table, and their values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime._util.secrets import read_secret
from attri.runtime.cli.command import KEYS, REPORTS, REPOSITORY, STORE, option
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    from attri.runtime.deliver.mqtt.broker import Broker

PATH = click.Path(path_type=Path)
PASSPHRASE, PIN = "ATTRI_KEYS_PASSPHRASE", "ATTRI_KEYS_PIN"  # environment variables


def as_one(name: str, kind: Any, *options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a click command options of which its function gets one argument, a dataclass with their values.

    Args:
        name: of the argument.
        kind: the dataclass; its fields are called as the options are.
        options: decorators of click.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            values = kind(**{each.name: kwargs.pop(each.name) for each in fields(kind)})
            return command(*args, **{name: values}, **kwargs)

        for add in reversed(options):
            wrapper = add(wrapper)
        return wrapper

    return decorate


def open_broker(url: str | None, password_file: Path | None) -> Broker | None:
    """The broker for reports; None where none was asked for."""
    from attri.runtime.deliver.mqtt.broker import Broker

    if url is None:
        if password_file is not None:
            raise UsageError("--mqtt-password-file is for --mqtt: give that too")
        return None
    return Broker.parse(url, read_secret("ATTRI_MQTT_PASSWORD", password_file))


class Percent(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A share like 10%, as the number 10."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails where it is none from 0 to 100."""
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100:
            self.fail(f"{value!r} is no share: write 0% to 100%", param, ctx)
        return number


REPO = option(REPOSITORY, "--repo", type=PATH, default=Path("repo"), show_default=True, help="The repository's folder.")
CHANNEL = option(REPOSITORY, "--channel", default="stable", show_default=True, help="Channel that devices follow.")
WAVE = option(
    REPOSITORY, "--wave", type=Percent(), metavar="PERCENT", help="Share of the devices that get it first. [all]"
)
KEY_FOLDERS = option(
    KEYS,
    "--keys",
    type=PATH,
    multiple=True,
    default=(Path("keys"),),
    show_default=True,
    help="Folder of private keys; repeat it for keys of several people.",
)
PASSPHRASE_FILE = option(
    KEYS, "--passphrase-file", type=PATH, help=f"File with the passphrase of the keys. [${PASSPHRASE}, or it is asked]"
)
MQTT = option(REPORTS, "--mqtt", metavar="URL", help="Broker for reports, mqtt://[USER@]HOST[:PORT] or mqtts://.")
MQTT_PASSWORD = option(
    REPORTS, "--mqtt-password-file", type=PATH, help="File with its password. [$ATTRI_MQTT_PASSWORD]"
)
FOLDER = option(
    STORE,
    "--store",
    "folder",
    type=PATH,
    default=Path("/var/lib/attri"),
    show_default=True,
    help="Folder of this device for updates.",
)
