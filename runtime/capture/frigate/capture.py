"""Frames from Frigate: subscribe to its messages, and fetch the snapshot of each object that is to be classified."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.frigate.address import SCHEME, FrigateAddress
from attri.runtime.capture.frigate.api import FrigateApi
from attri.runtime.capture.frigate.objects import ObjectQueue, TrackedObject
from attri.runtime.capture.frigate.session import open_session
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import FailedError, ImageError, SourceError
from attri.runtime.images import load_image

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_POLL = 0.5  # seconds between heartbeats
_REFUSED = (134, 135)  # MQTT's reasons that do not pass: a wrong password, not authorized


class EventBroker(Protocol):
    """The broker that Frigate publishes to, as the sink of MQTT has it."""

    @property
    def host(self) -> str:
        """Name or address."""
        ...

    @property
    def port(self) -> int:
        """TCP port."""
        ...

    @property
    def address(self) -> str:
        """URL without user and password."""
        ...

    def new_client(self, name: str = "", *, reconnects: bool = True) -> Client:
        """A client with login and TLS that is not connected yet."""
        ...


@contextmanager
def open_frigate(
    spec: SourceSpec, broker: EventBroker, timeout: float, abandoned: threading.Event
) -> Iterator[Capture]:
    """Subscribe to Frigate's messages while a `with` block lasts.

    Args:
        spec: Of the kind "frigate".
        broker: That Frigate publishes to.
        timeout: Seconds for the broker to answer.
        abandoned: Set when nobody waits for frames any more.

    Raises:
        SourceError: The broker, or Frigate where it asks for a login, cannot be reached or refuses; or the broker is
            lost, also while frames are taken.
        MissingExtra: paho-mqtt is not installed.
    """
    where = FrigateAddress.parse(spec.uri)
    objects, api = ObjectQueue(where.wants), FrigateApi(open_session(where), abandoned)
    with _subscribed(broker, f"{where.topic}/events", objects, timeout):
        yield Capture(
            f"{where.topic}/events at {broker.address}, snapshots from {where.api}", _frames(objects, api, broker)
        )


@contextmanager
def _subscribed(broker: EventBroker, topic: str, objects: ObjectQueue, timeout: float) -> Iterator[None]:
    """Messages of a topic go to `objects`, from paho's thread."""
    answered, refusal = threading.Event(), list[SourceError]()

    def on_connect(client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            refuse(reason)
        else:
            client.subscribe(topic, 1)

    def on_subscribe(_client: Client, _data: Any, _packet: int, reasons: list[Any], _properties: Any) -> None:
        if reasons[0].is_failure:
            refuse(f"{topic}: {reasons[0]}")
        answered.set()

    def refuse(reason: Any) -> None:
        final = getattr(reason, "value", None) in _REFUSED
        refusal.append(SourceError(f"{broker.address} refuses: {reason}", final=final))
        answered.set()

    client = broker.new_client(reconnects=False)
    client.on_connect, client.on_subscribe = on_connect, on_subscribe
    client.on_message = lambda _client, _data, message: objects.add(bytes(message.payload))
    client.on_disconnect = lambda _client, _data, _flags, reason, _properties: objects.fail(str(reason))
    try:
        client.connect(broker.host, broker.port, keepalive=30)
    except OSError as error:
        raise SourceError(f"{broker.address} cannot be reached: {error.strerror or error}") from error
    client.loop_start()
    try:
        if not answered.wait(timeout):
            raise SourceError(f"{broker.address} gives no answer")
        if refusal:
            raise refusal[0]
        yield
    finally:
        with contextlib.suppress(OSError):
            client.disconnect()
        client.loop_stop()


def _frames(objects: ObjectQueue, api: FrigateApi, broker: EventBroker) -> Iterator[CapturedFrame | None]:
    while True:
        try:
            found = objects.take(_POLL)
        except ConnectionError as error:
            raise SourceError(f"{broker.address} is gone: {error}") from error
        yield None if found is None else _frame(found, api)


def _frame(found: TrackedObject, api: FrigateApi) -> CapturedFrame | None:
    """The image of an object; None where Frigate has none."""
    name = f"{SCHEME}://{api.address.partition('://')[2]}/{found.camera}/{found.id}"
    try:
        data = api.snapshot(found.id, over=found.over)
        return None if data is None else CapturedFrame(load_image(data), found.snapshot, name)
    except FailedError as error:
        return CapturedFrame(ImageError(f"{name}: {error}"), found.snapshot, name)


def object_of(name: str) -> tuple[str, str]:
    """Host and port of the API and the id of an object, from the name of its frame."""
    place, _, event = name.removeprefix(f"{SCHEME}://").rpartition("/")
    return place.rpartition("/")[0], event
