"""Events to an MQTT broker, by QoS 1 from a spool on the disk; Home Assistant finds the sources by itself.

PREFIX/status            "online" or "offline" (last will), retained
PREFIX/SOURCE            the last event as JSON, retained; `id` is unique, so that who gets it twice can tell; pictures
                         of a folder share it, and `source` in the event is the file
PREFIX/SOURCE/state      "live", "retrying", "dead", ... as the source's health says, retained
DISCOVERY/sensor/...     what Home Assistant has to know, retained
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from attri.runtime.errors import MissingExtra, UsageError
from attri.runtime.files import file_name
from attri.runtime.printable import json_text
from attri.runtime.redact import has_password
from attri.runtime.result import Control, Result, Takes
from attri.runtime.spool import Spool
from attri.runtime.webhook import event_body

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_LOGGER = logging.getLogger("attri")
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_WINDOW = 20  # messages on their way at a time
_TICK = 0.5  # seconds between looks at the sources' health
_LAST_MOMENTS = 0.6  # seconds that close() waits for the broker, and half of it for a farewell
_RECONNECT = (1, 60)  # seconds, at first and at most
ONLINE, OFFLINE = "online", "offline"


@dataclass(frozen=True)
class Broker:
    """Where a broker is and how to log in.

    host, port    of the TCP connection
    tls           mqtts://
    user          from the URL; the password from the environment or a file
    ca            PEM of who signed the broker's certificate; None is the system's list
    certificate   PEM of our own, with its key, where the broker asks for one
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def address(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str, password: str | None = None, **files: Path | None) -> Broker:
        """mqtt://[USER@]HOST[:PORT] or mqtts://... Raises UsageError."""
        if has_password(url):
            raise UsageError("--mqtt: no password in the URL: set ATTRI_MQTT_PASSWORD, or --mqtt-password-file")
        wanted = "--mqtt takes mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # its words may quote part of a user's name
            raise UsageError(wanted) from None
        rest = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in _PORTS or not parts.hostname or port == 0 or rest:
            raise UsageError(wanted)
        tls = parts.scheme == "mqtts"
        if not tls and any(files.values()):
            raise UsageError("--mqtt: certificates are for mqtts://")
        if password and not parts.username:
            raise UsageError("--mqtt: a password needs a user: mqtt://USER@HOST")
        user = parts.username and unquote(parts.username)
        return cls(parts.hostname, port or _PORTS[parts.scheme], tls, user, password, **files)


class MqttSink:
    """Every event, in order, at least once; while the broker is away they wait in the spool.

    Args:
        broker: where to.
        prefix: of every topic; also this client's name, so two on one broker need two.
        spool: opens the spool.
        control: for the names and the health of sources.
        discovery: Home Assistant's prefix ("homeassistant"), or None.

    Raises:
        UsageError: a prefix that is no topic, or certificates that cannot be read.
        MissingExtra: paho-mqtt is not installed.
    """

    name = "mqtt"
    lossless = True
    takes: Takes = "events"

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        spool: Callable[[], Spool],
        control: Control,
        discovery: str | None = None,
        topk: int = 1,
    ) -> None:
        if not prefix.strip("/") or set(prefix) & set("+#\0") or not prefix.isprintable():
            raise UsageError(f"--mqtt-topic {prefix!r} is no topic: letters, digits and slashes")
        self._broker, self._prefix, self._topk = broker, prefix.strip("/"), topk
        self._control, self._discovery = control, discovery
        self._client = self._make_client()
        self._spool = spool()
        self._topics: dict[str, str] = {}  # of each source
        self._states: dict[str, str] = {}  # as the broker knows them
        self._flying: deque[tuple[int, int]] = deque()  # (paho's id, the spool's), in order
        self._answers: deque[int] = deque()  # paho's ids of what the broker took, from its thread
        self._taken: set[int] = set()
        self._connection = 0  # counts them; 0 is none yet
        self._online, self._silent = False, False
        self._wake, self._stop = threading.Event(), threading.Event()
        self._client.connect_async(broker.host, broker.port, keepalive=30)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        self._spool.add(self._topic(result.origin), event_body(result, self._topk))
        self._wake.set()

    def close(self) -> None:
        """Waits a moment for what is on its way; the rest stays on the disk for the next run."""
        self._stop.set()
        self._wake.set()
        self._thread.join(_LAST_MOMENTS)
        if self._online:
            farewell = self._client.publish(f"{self._prefix}/status", OFFLINE, 1, True)
            with contextlib.suppress(RuntimeError, ValueError):  # the connection broke off just now
                farewell.wait_for_publish(_LAST_MOMENTS / 2)
        self._client.disconnect()
        # It joins paho's thread, which may be waiting for a host that does not answer.
        stop = threading.Thread(target=self._client.loop_stop, daemon=True)
        stop.start()
        stop.join(_LAST_MOMENTS / 2)
        self._spool.close()

    def _make_client(self) -> Client:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as error:
            raise MissingExtra("paho-mqtt", "mqtt") from error
        broker, name = self._broker, self._prefix.replace("/", "-")
        client = Client(CallbackAPIVersion.VERSION2, client_id=name)
        if broker.user:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            try:
                ca, certificate, key = (str(f) if f else None for f in (broker.ca, broker.certificate, broker.key))
                client.tls_set(ca, certificate, key)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise UsageError(f"--mqtt: the certificates cannot be used: {error}") from error
        client.will_set(f"{self._prefix}/status", OFFLINE, 1, True)
        client.max_inflight_messages_set(_WINDOW)
        client.reconnect_delay_set(*_RECONNECT)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_connect_fail = lambda *_: self._tell("cannot be reached")
        client.on_publish = lambda _client, _data, message, *_: self._answered(message)
        return client

    # The callbacks run in paho's thread and hold its locks: they leave everything to ours.

    def _connected(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._tell(f"refuses: {reason}")
            return
        _LOGGER.info("%s: connected, %d events wait", self._broker.address, len(self._spool))
        self._connection += 1
        self._online, self._silent = True, False
        self._wake.set()

    def _disconnected(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._online = False
        if not self._stop.is_set():
            self._tell(f"is gone: {reason}")

    def _answered(self, message: int) -> None:
        self._answers.append(message)
        self._wake.set()

    def _tell(self, trouble: str) -> None:
        if not self._silent:
            _LOGGER.warning("%s %s; events are kept on the disk meanwhile", self._broker.address, trouble)
        self._silent = True

    def _run(self) -> None:
        greeted, looked, last = 0, 0.0, 0
        while not (self._stop.is_set() and self._finished()):
            self._settle()
            if self._online and greeted != self._connection:
                # paho sends again what was on its way; nothing newer may overtake it.
                if not self._flying:
                    greeted = self._connection
                    self._greet()
            elif self._online:
                if time.monotonic() - looked > _TICK:
                    looked = time.monotonic()
                    self._report_health()
                last = self._send(last)
            self._wake.wait(_TICK)
            self._wake.clear()

    def _finished(self) -> bool:
        return not self._online or len(self._spool) == 0

    def _settle(self) -> None:
        """Remove from the spool what the broker has, up to the first that it does not have."""
        while self._answers:
            self._taken.add(self._answers.popleft())
        while self._flying and self._flying[0][0] in self._taken:
            sent, message = self._flying.popleft()
            self._taken.remove(sent)
            self._spool.done(message)
        self._taken &= {sent for sent, _ in self._flying}  # greetings are no events

    def _send(self, last: int) -> int:
        for message in self._spool.after(last, _WINDOW - len(self._flying)):
            info = self._client.publish(message.topic, message.body, 1, True)
            self._flying.append((info.mid, message.id))
            last = message.id
        return last

    def _greet(self) -> None:
        self._client.publish(f"{self._prefix}/status", ONLINE, 1, True)
        self._states.clear()
        for health in self._control.health() if self._discovery else []:
            for topic, config in self._discoveries(health.source).items():
                self._client.publish(topic, json_text(config), 1, True)
        self._wake.set()

    def _report_health(self) -> None:
        for health in self._control.health():
            if self._states.get(health.source) != health.state:
                self._states[health.source] = health.state
                self._client.publish(f"{self._topic(health.source)}/state", health.state, 1, True)

    def _topic(self, source: str) -> str:
        if source not in self._topics:
            name = file_name(source)
            if f"{self._prefix}/{name}" in (taken := set(self._topics.values())) or name == "status":
                name += "-" + hashlib.sha256(source.encode(errors="replace")).hexdigest()[:6]
            assert f"{self._prefix}/{name}" not in taken
            self._topics[source] = f"{self._prefix}/{name}"
        return self._topics[source]

    def _discoveries(self, source: str) -> dict[str, dict[str, Any]]:
        """Home Assistant's sensors of a source: its label, with the event as attributes, and the label's score."""
        topic = self._topic(source)
        unique = "".join(char if char.isascii() and char.isalnum() else "_" for char in topic)
        unique += "_" + hashlib.sha256(topic.encode()).hexdigest()[:6]
        shown = source.encode(errors="replace").decode()
        common = {
            "state_topic": topic,
            "availability": [
                {"topic": f"{self._prefix}/status"},
                {"topic": f"{topic}/state", "payload_available": "live"},
            ],
            "availability_mode": "all",
            "device": {"identifiers": [self._prefix], "name": self._prefix, "manufacturer": "attri"},
        }
        label = {
            "name": shown,
            "unique_id": f"{unique}_label",
            "value_template": "{{ value_json.label or 'none' }}",
            "json_attributes_topic": topic,
            "icon": "mdi:tag",
        }
        score = {
            "name": f"{shown} score",
            "unique_id": f"{unique}_score",
            "value_template": "{{ (value_json.score * 100) | round(1) }}",
            "unit_of_measurement": "%",
            "state_class": "measurement",
        }
        kinds = {"label": label, "score": score}
        return {f"{self._discovery}/sensor/{unique}/{kind}/config": common | own for kind, own in kinds.items()}
