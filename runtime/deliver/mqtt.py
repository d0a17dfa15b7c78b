"""Events to an MQTT broker, by QoS 1 from a spool on the disk; Home Assistant finds the sources by itself.

Everything is retained, so the spool also remembers the topics: what an earlier run published and this one does not is
cleared when the broker is there.

PREFIX/status            "online" or "offline" (last will), retained
PREFIX/SOURCE            the last event as JSON, retained; `id` is unique, so that who gets it twice can tell; pictures
                         of a folder share it, and `source` in the event is the file
PREFIX/SOURCE/state      "live", "retrying", "dead", ... as the source's health says, retained; at the end "ended" or
                         "dead"
DISCOVERY/sensor/...     what Home Assistant has to know, retained
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from attri.runtime._util.printable import json_text
from attri.runtime._util.redact import has_password
from attri.runtime.deliver.format import event_body, file_name
from attri.runtime.deliver.home_assistant import identifier, sensors
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.deliver.spool import Message, Spool
from attri.runtime.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_LOGGER = logging.getLogger("attri")
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_WINDOW = 20  # messages on their way at a time
_TICK = 0.5  # seconds between looks at the sources' health
_LAST_MOMENTS = 0.6  # seconds that close() gives to events that wait
_FAREWELL = 0.3  # and then to the last words, and to paho's thread
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
        spool: opens the spool, which is of this broker and prefix alone.
        control: for the names and the health of sources.
        discovery: Home Assistant's prefix ("homeassistant"), or None.

    Raises:
        UsageError: a prefix that is no topic, or certificates that cannot be read.
        SinkError: the disk is full.
        MissingExtra: paho-mqtt is not installed.
    """

    name = "mqtt"
    lossless = True
    takes: SinkFilter = "changes"

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        spool: Callable[[], Spool],
        control: PipelineControl,
        discovery: str | None = None,
        topk: int = 1,
    ) -> None:
        if not prefix.strip("/") or set(prefix) & set("+#\0") or not prefix.isprintable():
            raise UsageError(f"--mqtt-topic {prefix!r} is no topic: letters, digits and slashes")
        self._broker, self._prefix, self._topk = broker, prefix.strip("/"), topk
        self._control = control
        sources = [health.source for health in control.health()]
        self._topics = source_topics(self._prefix, sources)
        self._configs: dict[str, dict[str, Any]] = {}  # of Home Assistant, by topic
        for source, topic in self._topics.items() if discovery else ():
            self._configs |= sensors(discovery or "", self._prefix, source, topic)
        self._client = self._make_client()
        self._spool = spool()
        with contextlib.ExitStack() as undo:
            undo.callback(self._spool.close)
            self._stale = self._note_topics()
            undo.pop_all()
        self._clearing: dict[int, str] = {}  # topics that the broker was told to clear, by paho's id
        self._states: dict[str, str] = {}  # as the broker knows them
        self._flying: deque[tuple[int, int]] = deque()  # (paho's id, the spool's), in order
        self._answers: deque[int] = deque()  # paho's ids of what the broker took, from its thread
        self._taken: set[int] = set()
        self._connection = 0  # counts them; 0 is none yet
        self._online, self._silent = False, False
        self._deadline, self._parted = float("inf"), False  # when close() no longer waits; the farewell was taken
        self._wake, self._stop = threading.Event(), threading.Event()
        self._client.connect_async(broker.host, broker.port, keepalive=30)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        self._spool.add(self._topics[result.origin], event_body(result, self._topk))
        self._wake.set()

    def close(self) -> None:
        """Waits a moment for what is on its way; the rest stays on the disk for the next run."""
        self._deadline = time.monotonic() + _LAST_MOMENTS
        self._stop.set()
        self._wake.set()
        self._thread.join(_LAST_MOMENTS + _FAREWELL)
        # It joins paho's thread, which may be waiting for a host that does not answer.
        stop = threading.Thread(target=self._client.loop_stop, daemon=True)
        stop.start()
        if self._parted or not self._online:
            self._client.disconnect()
        else:
            self._break_off()
        stop.join(_FAREWELL)
        self._spool.close()

    def _break_off(self) -> None:
        """End the connection without a word, so that the broker publishes the last will."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _note_topics(self) -> list[str]:
        """Remember what will be retained; what was so and is no longer ours to publish is to be cleared."""
        states = [f"{topic}/state" for topic in self._topics.values()]
        known = self._spool.retain([*self._configs, *states, *self._topics.values()])
        return [topic for topic in known if self._is_ours(topic)]

    def _is_ours(self, topic: str) -> bool:
        """Whether a topic from the disk, which may be damaged, is one that this prefix publishes."""
        own = topic.startswith(f"{self._prefix}/") or f"/sensor/{identifier(self._prefix)}_" in topic
        return own and not set(topic) & set("+#\0")

    def _make_client(self) -> Client:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as error:
            raise MissingExtra("paho") from error
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
        while not self._is_over():
            self._settle()
            if self._online and greeted != self._connection:
                # paho sends again what was on its way; nothing newer may overtake it.
                if not self._flying:
                    greeted = self._connection
                    if not self._stop.is_set():
                        self._greet()
            elif self._online:
                if time.monotonic() - looked > _TICK:
                    looked = time.monotonic()
                    self._report_health()
                last = self._send(last)
            self._wake.wait(_TICK)
            self._wake.clear()
        if self._online:
            self._part()
        self._settle()  # what was acknowledged with the farewell

    def _is_over(self) -> bool:
        if not self._stop.is_set():
            return False
        return not self._online or len(self._spool) == 0 or time.monotonic() > self._deadline

    def _settle(self) -> None:
        """Remove from the spool what the broker has, up to the first that it does not have."""
        while self._answers:
            answer = self._answers.popleft()
            self._taken.add(answer)
            if answer in self._clearing:
                self._spool.forget(self._clearing.pop(answer))
        while self._flying and self._flying[0][0] in self._taken:
            sent, message = self._flying.popleft()
            self._taken.remove(sent)
            self._spool.done(message)
        self._taken &= {sent for sent, _ in self._flying}  # greetings are no events

    def _send(self, last: int) -> int:
        for message in self._spool.after(last, _WINDOW - len(self._flying)):
            self._flying.append((self._send_one(message), message.id))
            last = message.id
        return last

    def _send_one(self, message: Message) -> int:
        """The id under which it will be answered. Events of a source that is gone are not retained."""
        if self._is_ours(message.topic):
            return self._client.publish(message.topic, message.body, 1, message.topic in self._topics.values()).mid
        _LOGGER.error("error: %s is damaged: one of its events has no topic and is left out", self._spool.path)
        self._answers.append(-message.id)
        return -message.id

    def _greet(self) -> None:
        self._client.publish(f"{self._prefix}/status", ONLINE, 1, True)
        for topic in self._stale:  # once: paho sends again what the broker did not take
            self._clearing[self._client.publish(topic, b"", 1, True).mid] = topic
        self._stale.clear()
        for topic, config in self._configs.items():
            self._client.publish(topic, json_text(config), 1, True)
        self._states.clear()
        self._wake.set()

    def _report_health(self) -> None:
        for health in self._control.health():
            self._report(health.source, health.state)

    def _report(self, source: str, state: str) -> None:
        if self._states.get(source) != state:
            self._states[source] = state
            self._client.publish(f"{self._topics[source]}/state", state, 1, True)

    def _part(self) -> None:
        """Say how each source ended, and that this is the end."""
        for health in self._control.health():
            self._report(health.source, "dead" if health.state == "dead" else "ended")
        farewell = self._client.publish(f"{self._prefix}/status", OFFLINE, 1, True)
        with contextlib.suppress(RuntimeError, ValueError):  # the connection broke off just now
            farewell.wait_for_publish(_FAREWELL)
            self._parted = farewell.is_published()


def source_topics(prefix: str, sources: Sequence[str]) -> dict[str, str]:
    """The topic of each source: by their names and order alone, so that the next run finds what this one retained."""
    topics: dict[str, str] = {}
    for source in sources:
        plain, digest = file_name(source), hashlib.sha256(source.encode(errors="replace")).hexdigest()
        taken = {f"{prefix}/status", *topics.values()}
        names = (f"{prefix}/{name}" for name in (plain, f"{plain}-{digest[:6]}", f"{plain}-{digest}"))
        topics[source] = next(name for name in names if name not in taken)
    return topics
