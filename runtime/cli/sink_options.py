"""Command-line options that say where results go: one table from which click options and checks are made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import click

from attri.runtime.cli.command import COLLECT, OUTPUTS, SERVICE, WEB, is_installed, option
from attri.runtime.errors import MissingExtra, UsageError

_FILE = click.Path(path_type=Path)
_COUNT = click.IntRange(1)
_ADDRESS = "[HOST:]PORT"
_METRICS = ("prometheus_client",)


@dataclass(frozen=True)
class SinkOption:
    """What the command line knows of a field of `Outputs`, beside its name and default.

    Attributes:
        help: Help text.
        type: click's type; None is text, or a flag where the default is False.
        flag: Spelling on the command line; "" is the field's name with dashes.
        needs: Name of the option without which this one would do nothing.
        modules: Modules that it needs, by names of `attri.runtime._util.extras`.
        metavar: What the help shows in the place of the value.
        envvar: Environment variable that gives the value where the command line does not.
        group: Heading in the help.
    """

    help: str
    type: click.ParamType | None = None  # type: ignore[type-arg]  # generic from click 8.3 on
    flag: str = ""
    needs: str = ""
    modules: tuple[str, ...] = ()
    metavar: str | None = None
    envvar: str | None = None
    group: str = OUTPUTS


def _collecting(help: str, type: click.ParamType | None = None, metavar: str | None = None) -> SinkOption:  # type: ignore[type-arg]
    """A row about what --collect collects."""
    return SinkOption(help, type, needs="collect", metavar=metavar, group=COLLECT)


@dataclass(frozen=True)
class Outputs:
    """The values of the options. Each field is a row of the table: name, type, default and its `SinkOption`."""

    topk: Annotated[int, SinkOption("Best labels to list, with their scores.", _COUNT)] = 1
    as_json: Annotated[bool, SinkOption("One JSON object per frame.", flag="--json")] = False
    why: Annotated[
        bool,
        SinkOption(
            "Add the pool entries that an image retrieved, the classes that they attract, and the nearest training"
            " images, where the prompt keeps them.",
            needs="as_json",
        ),
    ] = False
    compare: Annotated[
        bool, SinkOption("Only frames whose tasks decide differently; how often they agree is logged at the end.")
    ] = False
    quiet: Annotated[bool, SinkOption("Nothing on stdout.")] = False
    csv: Annotated[Path | None, SinkOption("Table with a row per frame; an existing one is continued.", _FILE)] = None
    save_video: Annotated[
        Path | None,
        SinkOption(
            "Annotated video: out.mp4, or 'out-{source}.mp4' for one per source; with tasks, put {task} into it.",
            _FILE,
            modules=("av",),
        ),
    ] = None
    snapshots: Annotated[Path | None, SinkOption("Folder for a JPEG at every change of the label.", _FILE)] = None
    explain: Annotated[
        Path | None,
        SinkOption("Folder for heat maps of images and videos, which say what speaks for the label.", _FILE),
    ] = None
    snapshots_keep: Annotated[int | None, SinkOption("Delete older ones. [1000]", _COUNT, needs="snapshots")] = None
    mqtt: Annotated[
        str | None,
        SinkOption(
            "Broker for events: mqtt[s]://[USER@]HOST[:PORT].",
            modules=("paho",),
            metavar="URL",
            envvar="ATTRI_MQTT",
        ),
    ] = None
    mqtt_topic: Annotated[str | None, SinkOption("Prefix of the topics. [attri/HOSTNAME]", needs="mqtt")] = None
    mqtt_password_file: Annotated[
        Path | None, SinkOption("File with the password. [$ATTRI_MQTT_PASSWORD]", _FILE, needs="mqtt")
    ] = None
    mqtt_ca: Annotated[
        Path | None, SinkOption("CA that signed the broker's certificate. [the system's]", _FILE, needs="mqtt")
    ] = None
    mqtt_cert: Annotated[Path | None, SinkOption("Client certificate; --mqtt-key is its key.", _FILE, needs="mqtt")] = (
        None
    )
    mqtt_key: Annotated[Path | None, SinkOption("Private key of --mqtt-cert.", _FILE, needs="mqtt_cert")] = None
    home_assistant: Annotated[bool, SinkOption("Announce the sources to Home Assistant by MQTT.", needs="mqtt")] = False
    webhook: Annotated[
        str | None, SinkOption("Where every event is posted, signed.", metavar="URL", envvar="ATTRI_WEBHOOK")
    ] = None
    webhook_secret_file: Annotated[
        Path | None, SinkOption("File with the signing secret. [$ATTRI_WEBHOOK_SECRET]", _FILE, needs="webhook")
    ] = None
    spool: Annotated[
        Path | None, SinkOption("Folder for events that wait for delivery. [~/.local/state/attri]", _FILE)
    ] = None
    collect: Annotated[
        Path | None, SinkOption("Folder for frames that are worth a label, as JPEG and JSON.", _FILE, group=COLLECT)
    ] = None
    collect_margin: Annotated[
        float | None,
        _collecting("Collect where the best score is ahead of the second by less. [0.2]", click.FloatRange(0, 1)),
    ] = None
    collect_flip: Annotated[
        float | None,
        _collecting(
            "Collect where the label changed, and changed back within this. [3]", click.FloatRange(0), "SECONDS"
        ),
    ] = None
    collect_novelty: Annotated[
        float | None,
        _collecting("Collect what is farther from all that was collected, by cosine. [0.3]", click.FloatRange(0, 2)),
    ] = None
    collect_control: Annotated[
        int | None, _collecting("Collect one of N at random, as a control. [10000]", click.IntRange(0))
    ] = None
    collect_per_minute: Annotated[
        int | None, _collecting("Most images a minute, of each region and task. [4]", _COUNT)
    ] = None
    collect_per_day: Annotated[
        int | None, _collecting("Most images in 24 hours, of each region and task. [200]", _COUNT)
    ] = None
    collect_megabytes: Annotated[int | None, _collecting("Largest size of the folder, MB. [1000]", _COUNT)] = None
    collect_free: Annotated[
        int | None, _collecting("Room that stays free on the disk, MB. [1000]", click.IntRange(0))
    ] = None
    collect_regions_only: Annotated[bool, _collecting("Collect regions of interest alone: never a whole frame.")] = (
        False
    )
    metrics: Annotated[
        str | None,
        SinkOption("Prometheus metrics at http://HOST:PORT/metrics.", modules=_METRICS, metavar=_ADDRESS, group=WEB),
    ] = None
    serve: Annotated[
        str | None,
        SinkOption(
            "Preview page with live images, /healthz and /metrics.",
            modules=("starlette", "uvicorn", "python_multipart", *_METRICS),
            metavar=_ADDRESS,
            group=WEB,
        ),
    ] = None
    serve_token_file: Annotated[
        Path | None,
        SinkOption("File with the token to change labels. [$ATTRI_SERVE_TOKEN]", _FILE, needs="serve", group=WEB),
    ] = None
    serve_allowed_host: Annotated[
        tuple[str, ...],
        SinkOption("Another host name of the page; may be repeated.", needs="serve", metavar="NAME", group=WEB),
    ] = ()
    log_json: Annotated[bool, SinkOption("Logs on stderr as JSON objects.", group=SERVICE)] = False
    install_service: Annotated[
        bool, SinkOption("Print a systemd unit that runs this command, and stop.", group=SERVICE)
    ] = False


OPTIONS: Mapping[str, SinkOption] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Outputs, include_extras=True).items()
}


def flag(name: str) -> str:
    """How a field of `Outputs` is spelled on the command line."""
    return OPTIONS[name].flag or f"--{name.replace('_', '-')}"


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options of the table; its function gets them as one argument, `outputs`.

    Raises:
        UsageError: From the command: an option that would do nothing, or two that contradict each other.
        MissingExtra: From the command: what an option needs is not installed.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outputs = Outputs(**{name: kwargs.pop(name) for name in OPTIONS})
        if outputs.log_json:
            from attri.runtime._util.logs import log_json

            log_json()
        _check_combination(outputs)
        _check_modules(outputs)
        return command(*args, outputs=outputs, **kwargs)

    with_options: Callable[..., Any] = wrapper
    for each in reversed(fields(Outputs)):
        with_options = output_option(each.name)(with_options)
    return with_options


def output_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The click option of a field of `Outputs`."""
    about, default = OPTIONS[name], getattr(Outputs, name)
    return option(
        about.group,
        flag(name),
        name,
        type=about.type,
        default=default,
        show_default=bool(default),
        is_flag=default is False,
        multiple=default == (),
        metavar=about.metavar,
        envvar=about.envvar,
        help=about.help,
    )


def _check_combination(outputs: Outputs) -> None:
    """Check that every option does something.

    Raises:
        UsageError: One would not.
    """
    defaults = {each.name: each.default for each in fields(Outputs)}
    for name, about in OPTIONS.items():
        if about.needs and getattr(outputs, name) != defaults[name] and not getattr(outputs, about.needs):
            raise UsageError(f"{flag(name)} is for {flag(about.needs)}, which was not given")
    if outputs.mqtt_cert and not outputs.mqtt_key:
        raise UsageError("--mqtt-cert needs its --mqtt-key")
    if outputs.spool and not (outputs.mqtt or outputs.webhook):
        raise UsageError("--spool is for --mqtt and --webhook, which were not given")
    if outputs.as_json and outputs.quiet:
        raise UsageError("--json and --quiet contradict each other")


def _check_modules(outputs: Outputs) -> None:
    """Check that what the options need is installed.

    Raises:
        MissingExtra: It is not.
    """
    for name, about in OPTIONS.items():
        lacking = [module for module in about.modules if getattr(outputs, name) and not is_installed(module)]
        if lacking:
            raise MissingExtra(*lacking)
