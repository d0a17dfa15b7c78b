"""What devices say of themselves, through an MQTT broker: one retained message each, so that nobody has to listen.

    attri/fleet/DEVICE    {"device", "time", "runs", "before", "error",
                           "update": {"release", "state", "reason", "figures", "time"}}

Reports decide nothing about trust: a device updates without a broker as with one.
"""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from attri.fleet.release import Release
from attri.runtime._util.printable import json_text
from attri.runtime._util.redact import redact
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.errors import FailedError

_LOGGER = logging.getLogger("attri")
TOPIC = "attri/fleet"
TIMEOUT = 10.0  # seconds for a broker to answer
QUIET = 1.0  # seconds without a message, after which all retained ones have come
_FAILED = ("refused", "rolled back")


@dataclass(frozen=True)
class Share:
    """How a release fares.

    Attributes:
        committed: devices that run it for good.
        failed: devices that refused it or went back.
        waiting: devices that are at it.
    """

    committed: int
    failed: int
    waiting: int

    @property
    def percent_failed(self) -> float:
        """Of those that are done with it; 0 where none is."""
        return 100 * self.failed / max(1, self.committed + self.failed)


def send_report(broker: Broker, device: str, report: Mapping[str, Any]) -> None:
    """Leave what a device is up to at a broker. Where that fails it is logged: the next report says it again.

    Args:
        broker: the broker.
        device: its name.
        report: as JSON.
    """
    client = broker.new_client()
    try:
        client.connect(broker.host, broker.port, keepalive=30)
        client.loop_start()
        message = json_text({"device": device, "time": time.time(), **report})
        sent = client.publish(f"{TOPIC}/{quote(device, safe='')}", message, qos=1, retain=True)
        sent.wait_for_publish(TIMEOUT)
        if not sent.is_published():
            raise OSError("no answer")
    except (OSError, ValueError, RuntimeError) as error:
        _LOGGER.warning("%s: the report could not be sent: %s", broker.address, redact(str(error)))
    finally:
        client.disconnect()
        client.loop_stop()


def read_reports(broker: Broker) -> list[dict[str, Any]]:
    """All reports that lie at a broker, by the names of the devices.

    Raises:
        FailedError: it does not answer.
    """
    found: queue.Queue[dict[str, Any] | str] = queue.Queue()

    def note(_client: object, _data: object, message: Any) -> None:
        try:
            report = json.loads(message.payload)
            assert isinstance(report["device"], str)
            found.put(report)
        except (ValueError, TypeError, LookupError, AssertionError):
            _LOGGER.warning("%s: what lies at %s is no report", broker.address, message.topic)

    def connected(client: Any, _data: object, _flags: object, code: Any, _properties: object) -> None:
        if code.is_failure:
            found.put(str(code))
        else:
            client.subscribe(f"{TOPIC}/+", qos=1)

    client = broker.new_client()
    client.on_message, client.on_connect = note, connected
    client.on_subscribe = lambda *_: found.put("")
    reports: dict[str, dict[str, Any]] = {}
    try:
        client.connect(broker.host, broker.port, keepalive=30)
        client.loop_start()
        wait = TIMEOUT
        while True:
            report = found.get(timeout=wait)
            if isinstance(report, dict):
                reports[report["device"]] = report
            elif report:
                raise FailedError(f"{broker.address}: {report}")
            wait = QUIET
    except queue.Empty:
        if wait == TIMEOUT:
            raise FailedError(f"{broker.address} does not answer") from None
    except OSError as error:
        raise FailedError(f"{broker.address}: {error.strerror or error}") from error
    finally:
        client.disconnect()
        client.loop_stop()
    return [reports[name] for name in sorted(reports)]


def share_of(release: Release, reports: list[dict[str, Any]]) -> Share:
    """How a release fares on the devices that report."""
    states = [_state_of(release, report) for report in reports]
    failed = sum(state in _FAILED for state in states)
    committed = states.count("committed")
    return Share(committed, failed, sum(state is not None for state in states) - failed - committed)


def _state_of(release: Release, report: Mapping[str, Any]) -> str | None:
    """The state of this release on a device; None where it has not got that far."""
    update = report.get("update") or {}
    if update.get("release") == release.name:
        return str(update.get("state"))
    return "committed" if report.get("runs") == release.name else None
