"""Where results go: the options that say so, and the sinks that they open."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime._util.net import listen, overlap, parse_address
from attri.runtime._util.transient import missing
from attri.runtime.cli.command import is_installed, require
from attri.runtime.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from attri.runtime.deliver.sink import PipelineControl, Sink
    from attri.runtime.deliver.spool import Spool

_LOGGER = logging.getLogger("attri")


@dataclass(frozen=True)
class Outputs:
    """The values of the options below, by their names."""

    topk: int = 1
    as_json: bool = False
    quiet: bool = False
    csv: Path | None = None
    save: Path | None = None
    snapshots: Path | None = None
    snapshots_keep: int | None = None
    mqtt: str | None = None
    mqtt_topic: str | None = None
    mqtt_password_file: Path | None = None
    mqtt_ca: Path | None = None
    mqtt_cert: Path | None = None
    mqtt_key: Path | None = None
    home_assistant: bool = False
    webhook: str | None = None
    webhook_secret_file: Path | None = None
    spool: Path | None = None
    metrics: str | None = None
    serve: str | None = None
    serve_token_file: Path | None = None
    serve_name: tuple[str, ...] = ()
    log_json: bool = False
    install_service: bool = False


_FILE = click.Path(path_type=Path)
OPTIONS = [
    click.option("--topk", type=click.IntRange(1), default=1, show_default=True, help="Labels to print per frame."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object per frame."),
    click.option("--quiet", is_flag=True, help="Nothing on stdout."),
    click.option("--csv", type=_FILE, help="A row per frame in this file; one that exists is continued."),
    click.option("--save", type=_FILE, help="Annotated video: out.mp4, or 'out-{source}.mp4' for one of each source."),
    click.option("--snapshots", type=_FILE, help="Folder for a JPEG of every change of the label."),
    click.option("--snapshots-keep", type=click.IntRange(1), help="How many; the oldest go. [1000]"),
    click.option("--mqtt", envvar="ATTRI_MQTT", metavar="URL", help="Broker for events: mqtt[s]://[USER@]HOST[:PORT]."),
    click.option("--mqtt-topic", help="Prefix of the topics. [attri/HOSTNAME]"),
    click.option("--mqtt-password-file", type=_FILE, help="Else ATTRI_MQTT_PASSWORD from the environment."),
    click.option("--mqtt-ca", type=_FILE, help="Who signed the broker's certificate. [the system's list]"),
    click.option("--mqtt-cert", type=_FILE, help="Our own certificate, and --mqtt-key its key."),
    click.option("--mqtt-key", type=_FILE, help="Private key of --mqtt-cert."),
    click.option("--home-assistant", is_flag=True, help="Announce the sources to Home Assistant by MQTT."),
    click.option("--webhook", envvar="ATTRI_WEBHOOK", metavar="URL", help="POST every event there, signed."),
    click.option("--webhook-secret-file", type=_FILE, help="Else ATTRI_WEBHOOK_SECRET from the environment."),
    click.option("--spool", type=_FILE, help="Folder for events that wait for delivery. [~/.local/state/attri]"),
    click.option("--metrics", metavar="[HOST:]PORT", help="Prometheus figures at http://HOST:PORT/metrics."),
    click.option("--serve", metavar="[HOST:]PORT", help="A page with live pictures, /healthz and /metrics."),
    click.option("--serve-token-file", type=_FILE, help="Needed to change labels. Else ATTRI_SERVE_TOKEN."),
    click.option("--serve-name", multiple=True, metavar="NAME", help="Another name that the page is reached by."),
    click.option("--log-json", is_flag=True, help="Logs on stderr as JSON objects."),
    click.option("--install-service", is_flag=True, help="Print a systemd unit that runs this command, and stop."),
]
# What an option is for: given without that, it would do nothing.
_BELONGS = {
    "snapshots_keep": "snapshots",
    "mqtt_topic": "mqtt",
    "mqtt_password_file": "mqtt",
    "mqtt_ca": "mqtt",
    "mqtt_cert": "mqtt",
    "mqtt_key": "mqtt_cert",
    "home_assistant": "mqtt",
    "webhook_secret_file": "webhook",
    "serve_token_file": "serve",
    "serve_name": "serve",
}


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options above; its function gets them as one argument, `outputs`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outputs = Outputs(**{field.name: kwargs.pop(field.name) for field in fields(Outputs)})
        if outputs.log_json:
            from attri.runtime._util.logs import log_json

            log_json()
        _check(outputs)
        check_outputs(outputs)
        if not outputs.install_service:
            _try_servers(outputs)
        return command(*args, outputs=outputs, **kwargs)

    for option in reversed(OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def open_sinks(outputs: Outputs, control: PipelineControl) -> list[Sink]:
    """The sinks that were asked for, ready to take results; close them all, in any order.

    Raises:
        FailedError, MissingExtra, UsageError: one cannot be opened; those opened before it are closed.
    """
    sinks: list[Sink] = []
    with contextlib.ExitStack() as undo:
        for opener in (_files, _mqtt, _webhook, _servers, _watchdog, _console):
            for sink in opener(outputs, control):
                sinks.append(sink)
                undo.callback(sink.close)
        undo.pop_all()
    return sinks


def _check(outputs: Outputs) -> None:
    """Raises UsageError: an option that would do nothing."""
    for name, owner in _BELONGS.items():
        if getattr(outputs, name) and not getattr(outputs, owner):
            raise UsageError(f"--{name.replace('_', '-')} is for --{owner.replace('_', '-')}, which was not given")
    if outputs.mqtt_cert and not outputs.mqtt_key:
        raise UsageError("--mqtt-cert needs its --mqtt-key")
    if outputs.spool and not (outputs.mqtt or outputs.webhook):
        raise UsageError("--spool is for --mqtt and --webhook, which were not given")
    addresses = [parse_address(text, option) for text, option in _addresses(outputs)]
    if len(addresses) == 2 and overlap(*addresses):
        raise UsageError(
            f"--metrics and --serve both ask for port {addresses[0][1]}: the page has /metrics, leave one out"
        )
    if outputs.as_json and outputs.quiet:
        raise UsageError("--json and --quiet contradict each other")


def check_outputs(outputs: Outputs) -> None:
    """Check what can be checked of the sinks without opening one. Raises MissingExtra, UsageError."""
    if outputs.csv and not (folder := outputs.csv.parent).is_dir():
        raise UsageError(f"--csv {outputs.csv}: the folder {folder} does not exist") from missing(folder)
    if outputs.save:
        from attri.runtime.deliver.video import check_recording

        check_recording(outputs.save)
    if outputs.mqtt:
        from attri.runtime.deliver.mqtt import Broker

        Broker.parse(outputs.mqtt)
        require("paho")
    _require_servers(outputs)


def _addresses(outputs: Outputs) -> list[tuple[str, str]]:
    """Those to listen at, with their options."""
    asked = ((outputs.metrics, "--metrics"), (outputs.serve, "--serve"))
    return [(text, option) for text, option in asked if text]


def _require_servers(outputs: Outputs) -> None:
    needs = {"serve": ("starlette", "uvicorn", "prometheus_client"), "metrics": ("prometheus_client",)}
    for extra, modules in needs.items():
        lacking = [module for module in modules if getattr(outputs, extra) and not is_installed(module)]
        if lacking:
            raise MissingExtra(*lacking)


def _try_servers(outputs: Outputs) -> None:
    """Raises what opening them would, now and not after an engine was built for minutes: addresses, token."""
    if outputs.metrics:
        listen(parse_address(outputs.metrics, "--metrics"), "--metrics").close()
    if outputs.serve:
        from attri.runtime._util.secrets import read_secret
        from attri.runtime.web.server import listen_guarded

        token = read_secret("ATTRI_SERVE_TOKEN", outputs.serve_token_file)
        listen_guarded(parse_address(outputs.serve, "--serve"), token).close()


def _files(outputs: Outputs, _control: PipelineControl) -> Any:
    from attri.runtime.deliver.csv_file import CsvSink
    from attri.runtime.deliver.snapshots import SnapshotSink
    from attri.runtime.deliver.video import VideoSink

    if outputs.csv:
        yield CsvSink(outputs.csv)
    if outputs.save:
        yield VideoSink(outputs.save)
    if outputs.snapshots:
        yield SnapshotSink(outputs.snapshots, outputs.snapshots_keep or 1000, outputs.topk)


def _mqtt(outputs: Outputs, control: PipelineControl) -> Any:
    if not outputs.mqtt:
        return
    from attri.runtime._util.secrets import read_secret
    from attri.runtime.deliver.mqtt import Broker, MqttSink

    password = read_secret("ATTRI_MQTT_PASSWORD", outputs.mqtt_password_file)
    files = {"ca": outputs.mqtt_ca, "certificate": outputs.mqtt_cert, "key": outputs.mqtt_key}
    broker = Broker.parse(outputs.mqtt, password, **files)
    prefix = (outputs.mqtt_topic or f"attri/{socket.gethostname()}").strip("/")
    target = f"{broker.address}/{prefix}"
    discovery = "homeassistant" if outputs.home_assistant else None
    spool = functools.partial(_spool, outputs, "mqtt", target)
    yield MqttSink(broker, prefix, spool, control, discovery, outputs.topk)


def _webhook(outputs: Outputs, _control: PipelineControl) -> Any:
    if not outputs.webhook:
        return
    from attri.runtime._util.secrets import read_secret
    from attri.runtime.deliver.webhook import WebhookSink

    secret = read_secret("ATTRI_WEBHOOK_SECRET", outputs.webhook_secret_file)
    spool = functools.partial(_spool, outputs, "webhook", outputs.webhook)
    yield WebhookSink(outputs.webhook, secret, spool, outputs.topk)


def _spool(outputs: Outputs, kind: str, target: str) -> Spool:
    from attri.runtime.deliver.spool import Spool, spool_path

    return Spool(spool_path(outputs.spool, kind, target))


def _servers(outputs: Outputs, control: PipelineControl) -> Any:
    if not (outputs.metrics or outputs.serve):
        return
    from attri.runtime._util.secrets import read_secret
    from attri.runtime.deliver.metrics import MetricsServer, MetricsSink

    if outputs.metrics:
        metrics: MetricsSink = MetricsServer(control, parse_address(outputs.metrics, "--metrics"))
    else:
        metrics = MetricsSink(control)
    yield metrics
    if outputs.serve:
        from attri.runtime.web.server import PreviewServer

        token = read_secret("ATTRI_SERVE_TOKEN", outputs.serve_token_file)
        preview = PreviewServer(control, metrics, parse_address(outputs.serve, "--serve"), token, outputs.serve_name)
        _LOGGER.info("preview: %s", preview.url)
        yield preview


def _watchdog(_outputs: Outputs, control: PipelineControl) -> Any:
    if os.environ.get("NOTIFY_SOCKET"):
        from attri.runtime.cli.systemd import WatchdogSink

        yield WatchdogSink(control)


def _console(outputs: Outputs, _control: PipelineControl) -> Any:
    from attri.runtime.deliver.console import ConsoleSink

    if not outputs.quiet:
        yield ConsoleSink("json" if outputs.as_json else "text", outputs.topk)
