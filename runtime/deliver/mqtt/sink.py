"""The MQTT sink: events at QoS 1 from a spool on the disk, health of the sources, Home Assistant discovery.

Everything is retained. The spool also keeps the topics that were retained, so that a later run without one of the
sources clears what an earlier one left with the broker. `attri.runtime.deliver.mqtt.topics` lists the topics.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from attri.runtime._util.printable import json_text
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.deliver.mqtt.home_assistant import sensors
from attri.runtime.deliver.mqtt.topics import check_prefix, event_topics, is_ours, source_topics
from attri.runtime.deliver.mqtt.window import PublishWindow
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import PipelineControl
from attri.runtime.deliver.spool import Message, Spool
from attri.runtime.deliver.spooled import OutageLog, SpooledSink
from attri.runtime.errors import SinkError
from attri.runtime.labels import parse_labels

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_LOGGER = logging.getLogger("attri")
_WINDOW = 20  # events on their way at a time
_TICK = 0.5  # seconds between reports of the sources' health
_CLOSE_TIMEOUT = 0.6  # seconds that close() gives to events that wait
_FAREWELL_TIMEOUT = 0.3  # and then to the last messages, and to paho's thread
RECONNECT = (1, 60)  # seconds between attempts, the first and the longest pause
ONLINE, OFFLINE = "online", "offline"


class MqttSink(SpooledSink):
    """Publishes every event at least once and in order; while the broker is away, events wait in the spool.

    Three threads are involved: the pipeline's calls `write`, paho's runs the callbacks, and `_run` does the rest.

    Args:
        broker: Address and login.
        prefix: First part of every topic. It is also the client's name, so that each client of a broker needs its own.
        spool: Opens the spool, which belongs to this broker and prefix alone.
        control: The pipeline, for names and health of the sources.
        discovery: Prefix of Home Assistant's discovery topics ("homeassistant"); None publishes none.
        topk: Labels in the JSON of an event.

    Raises:
        UsageError: The prefix is no topic, or a certificate cannot be used.
        SinkError: The disk is full.
        MissingExtra: paho-mqtt is not installed.
    """

    name = "mqtt"

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        spool: Callable[[], Spool],
        control: PipelineControl,
        discovery: str | None = None,
        topk: int = 1,
    ) -> None:
        check_prefix(prefix)
        self._broker, self._prefix, self._control = broker, prefix.strip("/"), control
        self._topics: dict[str, str] = {}  # of all sources that there are or were
        self._events: dict[ResultKey, str] = {}  # of their tasks
        self._present: list[ResultKey] = []  # sources and tasks that there are
        self._following = threading.Lock()
        self._find_topics()
        self._discovery = discovery
        self._configs = self._documents()  # Home Assistant's discovery documents by topic
        self._client = self._make_client()
        super().__init__(spool(), topk)
        with contextlib.ExitStack() as undo:
            undo.callback(self._spool.close)
            self._stale = self._note_topics()  # topics to clear
            undo.pop_all()
        self._clearing: dict[int, str] = {}  # packet id -> topic that the packet clears
        self._states: dict[str, str] = {}  # source -> state that the broker has
        self._window = PublishWindow(_WINDOW)
        self._outage = OutageLog(f"{broker.address} ", "events are kept on the disk meanwhile")
        self._connection = 0  # number of the connection; 0 before the first
        self._online = False
        self._deadline = float("inf")  # monotonic time at which close() stops waiting for events
        self._said_farewell = False
        self._client.connect_async(broker.host, broker.port, keepalive=30)
        self._client.loop_start()
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Events that were sent and not yet acknowledged."""
        return len(self._window)

    def close(self) -> None:
        """Wait a moment for events on their way; the rest stays on the disk for the next run."""
        self._deadline = time.monotonic() + _CLOSE_TIMEOUT
        self._stop_sending(_CLOSE_TIMEOUT + _FAREWELL_TIMEOUT)
        # loop_stop joins paho's thread, which may be waiting for a host that does not answer.
        stop = threading.Thread(target=self._client.loop_stop, daemon=True)
        stop.start()
        if self._said_farewell or not self._online:
            self._client.disconnect()
        else:
            self._drop_connection()
        stop.join(_FAREWELL_TIMEOUT)
        self._spool.close()
        # What nothing refers to in a circle is freed at once, and paho closes its sockets then.
        self._client.on_connect = self._client.on_disconnect = None
        self._client.on_connect_fail = self._client.on_publish = None

    def _topic(self, result: FrameResult) -> str:
        if result.key not in self._events:  # a source that has just been added
            self._find_topics()
        return self._events[result.key]

    def _find_topics(self) -> None:
        """Give topics to sources that came since."""
        with self._following:
            sources = self._control.health()
            self._topics = source_topics(self._prefix, [health.source for health in sources], self._topics)
            self._events = self._events | event_topics(self._topics, sources)
            self._present = [key for health in sources for key in health.keys]

    def _documents(self) -> dict[str, dict[str, Any]]:
        """Discovery documents for the sources and tasks, and for labels as they are now, by topic."""
        found: dict[str, dict[str, Any]] = {}
        for source, task in self._present if self._discovery else ():
            topic = self._events[ResultKey(source, task)]
            name, state = source if task is None else f"{source} {task}", f"{self._topics[source]}/state"
            lines = self._control.labels(source, task) if self._control.independent(source, task) else []
            labels = [label.text for label in parse_labels("\n".join(lines), "the labels")] if lines else []
            found |= sensors(self._discovery or "", self._prefix, name, topic, state, labels)
        return found

    def _drop_connection(self) -> None:
        """End the connection without DISCONNECT, so that the broker publishes the last will."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _retained(self) -> list[str]:
        """Topics of the sources that there are, without Home Assistant's."""
        states = dict.fromkeys(f"{self._topics[key.origin]}/state" for key in self._present)
        return [*states, *(self._events[key] for key in self._present)]

    def _note_topics(self) -> list[str]:
        """Note in the spool which topics will be retained; returns those of earlier runs that are to be cleared."""
        known = self._spool.retain([*self._configs, *self._retained()])
        return [topic for topic in known if is_ours(topic, self._prefix)]

    def _make_client(self) -> Client:
        client = self._broker.new_client(self._prefix.replace("/", "-"))
        client.will_set(f"{self._prefix}/status", OFFLINE, 1, True)
        client.max_inflight_messages_set(_WINDOW)
        client.reconnect_delay_set(*RECONNECT)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = lambda *_: self._outage.report("cannot be reached")
        client.on_publish = lambda _client, _data, packet, *_: self._on_acknowledge(packet)
        return client

    # paho calls these in its thread, with its locks held: they only leave notes for `_run`.

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._outage.report(f"refuses: {reason}")
            return
        _LOGGER.info("%s: connected, %d events wait", self._broker.address, self.pending)
        self._connection += 1
        self._online = True
        self._outage.end()
        self._wake.set()

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._online = False
        if not self._stop.is_set():
            self._outage.report(f"is gone: {reason}")

    def _on_acknowledge(self, packet: int) -> None:
        self._window.acknowledge(packet)
        self._wake.set()

    def _run(self) -> None:
        greeted, reported, last = 0, 0.0, 0
        while not self._is_done():
            self._settle()
            if self._online and greeted != self._connection:
                # paho sends again what was on its way; nothing newer may overtake it.
                if not self._window:
                    greeted = self._connection
                    if not self._stop.is_set():
                        self._greet()
            elif self._online:
                if time.monotonic() - reported > _TICK:
                    reported = time.monotonic()
                    self._follow_sources()
                    self._report_health()
                    self._follow_labels()
                last = self._send(last)
            self._wake.wait(_TICK)
            self._wake.clear()
        if self._online:
            self._say_farewell()
        self._settle()  # what was acknowledged with the farewell

    def _is_done(self) -> bool:
        if not self._stop.is_set():
            return False
        return not self._online or self.pending == 0 or time.monotonic() > self._deadline

    def _settle(self) -> None:
        """Remove from the spool what the broker has acknowledged."""
        packets, delivered = self._window.settle()
        for packet in packets & self._clearing.keys():
            self._spool.forget(self._clearing.pop(packet))
        if delivered is not None:
            self._spool.done(delivered)

    def _send(self, last: int) -> int:
        """Publish what fits into the window; returns the id of the last message that was sent."""
        for message in self._spool.after(last, self._window.room):
            self._window.add(self._publish(message), message.id)
            last = message.id
        return last

    def _publish(self, message: Message) -> int:
        """Publish an event and return its packet id. Events of sources that are gone are not retained."""
        if is_ours(message.topic, self._prefix):
            return self._client.publish(message.topic, message.body, 1, message.topic in self._retained()).mid
        _LOGGER.error("error: %s is damaged: an event without a valid topic is left out", self._spool.path)
        self._window.acknowledge(-message.id)
        return -message.id

    def _greet(self) -> None:
        """Publish after each connect: the status, cleared topics, discovery; states follow."""
        self._client.publish(f"{self._prefix}/status", ONLINE, 1, True)
        self._clear(self._stale)  # once: paho sends again what the broker did not take
        self._stale.clear()
        for topic, config in self._configs.items():
            self._client.publish(topic, json_text(config), 1, True)
        self._states.clear()
        self._wake.set()

    def _clear(self, topics: Iterable[str]) -> None:
        """Have the broker forget what these retain."""
        for topic in topics:
            self._clearing[self._client.publish(topic, b"", 1, True).mid] = topic

    def _follow_sources(self) -> None:
        """Have topics for sources that have come since, and clear those of sources that have gone; sensors follow."""
        before = self._retained()
        self._find_topics()
        after = self._retained()
        if before != after:
            with contextlib.suppress(SinkError):  # a full disk: then no later run clears what this one leaves
                self._spool.retain([topic for topic in after if topic not in before])
            gone = set(before) - set(after)
            self._states = {
                name: state for name, state in self._states.items() if f"{self._topics[name]}/state" not in gone
            }
            self._clear(gone)

    def _follow_labels(self) -> None:
        """Publish the sensors that have come since, of sources and labels, and clear those that have gone."""
        before, self._configs = self._configs, self._documents()
        new = {topic: config for topic, config in self._configs.items() if topic not in before}
        with contextlib.suppress(SinkError):  # a full disk: then no later run clears what this one leaves
            self._spool.retain([*new])
        for topic, config in new.items():
            self._client.publish(topic, json_text(config), 1, True)
        self._clear(before.keys() - self._configs.keys())

    def _report_health(self) -> None:
        for health in self._control.health():
            self._report_state(health.source, health.state)

    def _report_state(self, source: str, state: str) -> None:
        if self._states.get(source) != state:
            self._states[source] = state
            self._client.publish(f"{self._topics[source]}/state", state, 1, True)

    def _say_farewell(self) -> None:
        """Publish how each source ended, and that this client goes offline."""
        self._find_topics()
        for health in self._control.health():
            self._report_state(health.source, "dead" if health.state == "dead" else "ended")
        farewell = self._client.publish(f"{self._prefix}/status", OFFLINE, 1, True)
        with contextlib.suppress(RuntimeError, ValueError):  # the connection was lost just now
            farewell.wait_for_publish(_FAREWELL_TIMEOUT)
            self._said_farewell = farewell.is_published()
