"""Check and open the sinks that the options of attri-run ask for: checking comes first, before engines are built."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attri.runtime._util.net import listen, overlap, parse_address
from attri.runtime._util.secrets import read_secret
from attri.runtime.cli.follow import followed
from attri.runtime.cli.sink_options import Outputs
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    from attri.runtime.capture.reader import Opener
    from attri.runtime.deliver.mqtt.broker import Broker
    from attri.runtime.deliver.sink import PipelineControl, Sink
    from attri.runtime.deliver.spool import Spool
    from attri.runtime.deliver.updates.exchange import Exchange

_LOGGER = logging.getLogger("attri")
_KEEP = 1000  # snapshots


@dataclass(frozen=True)
class Secrets:
    """Secrets of the sinks, read once: a file may be a pipe, which gives its content only once."""

    mqtt_password: str | None = None
    webhook_secret: str | None = None
    serve_token: str | None = None


def check_sinks(outputs: Outputs, *, tasks: bool = False) -> Secrets:
    """Check what can be checked of the sinks without opening one.

    For --install-service no secret, certificate or address is looked at: the service runs as another user, later.

    Args:
        outputs: The options.
        tasks: Whether sources have tasks.

    Returns:
        The secrets, for `open_sinks`.

    Raises:
        UsageError: A sink could not be opened.
        FailedError: Likewise, and it may be possible later: an address that is in use.
        MissingExtra: What a sink needs is not installed.
    """
    secrets = Secrets() if outputs.install_service else _read_secrets(outputs)
    _check_files(outputs, tasks)
    for check in (_check_mqtt, _check_webhook, _check_servers):
        check(outputs, secrets)
    return secrets


def open_sinks(outputs: Outputs, secrets: Secrets, control: PipelineControl, *, frigate: bool = False) -> list[Sink]:
    """Open the sinks that were asked for. Close each of them, in any order.

    Args:
        outputs: The options.
        secrets: What `check_sinks` gave for them.
        control: The pipeline, for sinks that ask for labels or health.
        frigate: Whether results go back to Frigate.

    Raises:
        FailedError: A sink cannot be opened, now; those opened before it are closed.
        UsageError: Likewise, and not later either.
        MissingExtra: What a sink needs is not installed.
    """
    sinks: list[Sink] = []
    with contextlib.ExitStack() as undo:
        for opener in (
            *(_open_files, _open_collection, _open_mqtt, _open_webhook, _open_servers),
            *(_open_watchdog, _open_console),
        ):
            for sink in opener(outputs, secrets, control):
                sinks.append(sink)
                undo.callback(sink.close)
        if frigate:
            from attri.runtime.deliver.frigate import FrigateSink

            sinks.append(FrigateSink())
        if outputs.collect:
            _show_tally(sinks)
        if updates := followed():
            sinks.append(_open_updates(updates, control, sinks))
        undo.pop_all()
    return sinks


def source_opener(outputs: Outputs, secrets: Secrets) -> Opener | None:
    """What opens the sources, where one may need the broker of --mqtt."""
    if not outputs.mqtt:
        return None
    from attri.runtime.capture.open import open_source

    return functools.partial(open_source, broker=_broker(outputs, secrets))


def _read_secrets(outputs: Outputs) -> Secrets:
    """Raises UsageError: A file or an environment variable holds no secret."""
    return Secrets(
        read_secret("ATTRI_MQTT_PASSWORD", outputs.mqtt_password_file) if outputs.mqtt else None,
        read_secret("ATTRI_WEBHOOK_SECRET", outputs.webhook_secret_file) if outputs.webhook else None,
        read_secret("ATTRI_SERVE_TOKEN", outputs.serve_token_file) if outputs.serve else None,
    )


def _check_files(outputs: Outputs, tasks: bool) -> None:
    if outputs.csv:
        from attri.runtime.deliver.csv_file import check_csv

        check_csv(outputs.csv, tasks=tasks)
    if outputs.save_video:
        from attri.runtime.deliver.video import check_recording

        check_recording(outputs.save_video, tasks=tasks)
    for folder in (outputs.snapshots, outputs.collect, outputs.explain):
        if folder:
            from attri.runtime.deliver.snapshots import check_folder

            check_folder(folder)


def _open_files(outputs: Outputs, _secrets: Secrets, control: PipelineControl) -> Iterator[Sink]:
    tasks = any(health.tasks for health in control.health())
    if outputs.csv:
        from attri.runtime.deliver.csv_file import CsvSink

        yield CsvSink(outputs.csv, tasks=tasks)
    if outputs.save_video:
        from attri.runtime.deliver.video import VideoSink

        yield VideoSink(outputs.save_video, tasks=tasks)
    if outputs.snapshots:
        from attri.runtime.deliver.snapshots import SnapshotSink

        yield SnapshotSink(outputs.snapshots, outputs.snapshots_keep or _KEEP, outputs.topk)
    if outputs.explain:
        from attri.runtime.deliver.explain.sink import ExplainSink

        yield ExplainSink(outputs.explain, control, outputs.topk)


def _open_collection(outputs: Outputs, _secrets: Secrets, control: PipelineControl) -> Iterator[Sink]:
    if outputs.collect:
        from attri.runtime.deliver.collect.caps import Caps
        from attri.runtime.deliver.collect.choose import ChoiceRule
        from attri.runtime.deliver.collect.sink import CollectSink

        rule = {
            "margin": outputs.collect_margin,
            "flip": outputs.collect_flip,
            "novelty": outputs.collect_novelty,
            "control": outputs.collect_control,
        }
        caps = {
            "minute": outputs.collect_per_minute,
            "day": outputs.collect_per_day,
            "megabytes": outputs.collect_megabytes,
            "free_megabytes": outputs.collect_free,
        }
        chosen, capped = ChoiceRule(**_given(rule)), Caps(**_given(caps))
        yield CollectSink(outputs.collect, control, chosen, capped, regions_only=outputs.collect_regions_only)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were asked for; the others keep their defaults."""
    return {name: value for name, value in values.items() if value is not None}


def _show_tally(sinks: Sequence[Sink]) -> None:
    """Have the metrics show what is collected."""
    from attri.runtime.deliver.collect.sink import CollectSink
    from attri.runtime.deliver.metrics import MetricsSink

    tallies = [sink.tally for sink in sinks if isinstance(sink, CollectSink)]
    for sink in sinks:
        if isinstance(sink, MetricsSink):
            (sink.tally,) = tallies


def _open_updates(exchange: Exchange, control: PipelineControl, sinks: Sequence[Sink]) -> Sink:
    """Serve the attri-bundle that watches over this command, and show what it does."""
    from attri.runtime.deliver.updates.sink import UpdatesSink
    from attri.runtime.deliver.webhook import WebhookSink

    webhook = next((sink for sink in sinks if isinstance(sink, WebhookSink)), None)
    return UpdatesSink(exchange, control.settings, None if webhook is None else webhook.announce)


def _check_mqtt(outputs: Outputs, secrets: Secrets) -> None:
    if outputs.mqtt:
        from attri.runtime.deliver.mqtt.topics import check_prefix

        broker = _broker(outputs, secrets)
        check_prefix(_prefix(outputs))
        if broker.tls and not outputs.install_service:
            broker.tls_context()


def _open_mqtt(outputs: Outputs, secrets: Secrets, control: PipelineControl) -> Iterator[Sink]:
    if outputs.mqtt:
        from attri.runtime.deliver.mqtt.sink import MqttSink

        broker, prefix = _broker(outputs, secrets), _prefix(outputs)
        discovery = "homeassistant" if outputs.home_assistant else None
        spool = functools.partial(_spool, outputs, "mqtt", f"{broker.address}/{prefix}")
        yield MqttSink(broker, prefix, spool, control, discovery, outputs.topk)


def _broker(outputs: Outputs, secrets: Secrets) -> Broker:
    from attri.runtime.deliver.mqtt.broker import Broker

    files = {"ca": outputs.mqtt_ca, "certificate": outputs.mqtt_cert, "key": outputs.mqtt_key}
    return Broker.parse(outputs.mqtt or "", secrets.mqtt_password, **files)


def _prefix(outputs: Outputs) -> str:
    """The prefix of MQTT topics, this machine's name unless another was given."""
    return (outputs.mqtt_topic or f"attri/{socket.gethostname()}").strip("/")


def _check_webhook(outputs: Outputs, secrets: Secrets) -> None:
    if outputs.webhook:
        from attri.runtime.deliver.webhook import check_secret, check_url

        check_url(outputs.webhook)
        if not outputs.install_service:
            check_secret(secrets.webhook_secret)


def _open_webhook(outputs: Outputs, secrets: Secrets, _control: PipelineControl) -> Iterator[Sink]:
    if outputs.webhook:
        from attri.runtime.deliver.webhook import WebhookSink

        spool = functools.partial(_spool, outputs, "webhook", outputs.webhook)
        yield WebhookSink(outputs.webhook, secrets.webhook_secret, spool, outputs.topk)


def _spool(outputs: Outputs, kind: str, target: str) -> Spool:
    from attri.runtime.deliver.spool import Spool, spool_path

    return Spool(spool_path(outputs.spool, kind, target))


def _check_servers(outputs: Outputs, secrets: Secrets) -> None:
    """Check the addresses of --metrics and --serve and the token, as opening the servers would."""
    addresses = [parse_address(text) for text in (outputs.metrics, outputs.serve) if text]
    if len(addresses) == 2 and overlap(*addresses):
        port = addresses[0][1]
        raise UsageError(f"--metrics and --serve both ask for port {port}: the page has /metrics, leave one out")
    if outputs.install_service:
        return
    if outputs.metrics:
        listen(parse_address(outputs.metrics)).close()
    if outputs.serve:
        from attri.runtime.web.server import listen_guarded

        listen_guarded(parse_address(outputs.serve), secrets.serve_token).close()


def _open_servers(outputs: Outputs, secrets: Secrets, control: PipelineControl) -> Iterator[Sink]:
    if not (outputs.metrics or outputs.serve):
        return
    from attri.runtime.deliver.metrics import MetricsServer, MetricsSink

    updates = followed()
    if outputs.metrics:
        metrics: MetricsSink = MetricsServer(control, parse_address(outputs.metrics), updates)
    else:
        metrics = MetricsSink(control, updates)
    yield metrics
    if outputs.serve:
        from attri.runtime.web.server import PreviewServer

        address = parse_address(outputs.serve)
        hosts, token = outputs.serve_allowed_host, secrets.serve_token
        preview = PreviewServer(control, metrics, address, token, hosts, collected=outputs.collect, updates=updates)
        _LOGGER.info("preview: %s", preview.url)
        yield preview


def _open_watchdog(_outputs: Outputs, _secrets: Secrets, control: PipelineControl) -> Iterator[Sink]:
    if os.environ.get("NOTIFY_SOCKET"):
        from attri.runtime.cli.service.systemd import WatchdogSink

        yield WatchdogSink(control)


def _open_console(outputs: Outputs, _secrets: Secrets, control: PipelineControl) -> Iterator[Sink]:
    from attri.runtime.deliver.compare import CompareSink
    from attri.runtime.deliver.console import ConsoleSink

    style = "json" if outputs.as_json else "text"
    console = None if outputs.quiet else ConsoleSink(style, outputs.topk, rows=not outputs.compare, why=outputs.why)
    if outputs.compare:
        yield CompareSink(control.health(), console)
    elif console is not None:
        yield console
