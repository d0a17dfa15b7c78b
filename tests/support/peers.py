"""Receivers for tests of sinks: a real Mosquitto broker with a subscriber, and an HTTP server for webhooks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
PREFIX = "attri/line2"
real = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `what` returns something true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Mosquitto:
    """A broker on loopback that can be killed and started again on the same port."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port, self.config = free_port(), folder / "mosquitto.conf"
        settings = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", *lines]
        self.config.write_text("\n".join({line.split()[0]: line for line in settings}.values()) + "\n")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([str(MOSQUITTO), "-c", self.config], stderr=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Listener:
    """Subscribes to every topic of a broker and keeps (topic, payload, retained) of each message."""

    def __init__(
        self, port: int, user: tuple[str, str] | None = None, ca: Path | None = None, name: str | None = None
    ) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, bytes, bool]] = []
        # If it has a name, the broker keeps its subscription and the messages that it misses.
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=name or "", clean_session=name is None)
        self.client.on_message = lambda _c, _d, m: self.messages.append((m.topic, bytes(m.payload), m.retain))
        self.client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self.client.reconnect_delay_set(1, 1)
        if user:
            self.client.username_pw_set(*user)
        if ca:
            self.client.tls_set(str(ca))
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def of(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.messages) if name == topic]

    def frames(self, source: str = "camera0") -> list[int]:
        """Numbers of the frames that came, each event once by its id."""
        events = [json.loads(payload) for payload in self.of(f"{PREFIX}/{source}")]
        return [event["frame"] for event in {event["id"]: event for event in events}.values()]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.on_message = None  # which refers to this: without a circle it is freed, and its sockets closed, now


class Relay:
    """A TCP proxy between a client and a broker that can hold back the broker's acknowledgements.

    Args:
        port: Port of the broker.
        release: Called with each packet that the client sends; whether the acknowledgements that wait are sent on.

    Attributes:
        held: While it is set, PUBACK packets wait here.
        port: Port for the client.
    """

    def __init__(self, port: int, release: Callable[[bytes], bool]) -> None:
        self.held, self._broker, self._release = threading.Event(), port, release
        self._waiting: list[tuple[socket.socket, bytes]] = []
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def waiting(self) -> int:
        return len(self._waiting)

    def cut(self) -> None:
        """Drop every connection; packets that wait are lost."""
        with self._lock:
            self._waiting.clear()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, broker = self._server.accept()[0], socket.create_connection(("127.0.0.1", self._broker))
                self._connections += [client, broker]
                for job in (self._up, self._down):
                    threading.Thread(target=job, args=(client, broker), daemon=True).start()

    def _up(self, client: socket.socket, broker: socket.socket) -> None:
        for packet in _packets(client):
            with contextlib.suppress(OSError):
                broker.sendall(packet)
            if self._release(packet):
                self._let_go()
        with contextlib.suppress(OSError):
            broker.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, broker: socket.socket) -> None:
        for packet in _packets(broker):
            with self._lock, contextlib.suppress(OSError):
                if self.held.is_set() and packet[0] >> 4 == 4:  # PUBACK
                    self._waiting.append((client, packet))
                else:
                    client.sendall(packet)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            for client, packet in self._waiting:
                client.sendall(packet)
            self._waiting.clear()


def _packets(connection: socket.socket) -> Iterator[bytes]:
    """Split a stream into MQTT control packets: a byte, the length of the rest in seven bits per byte, the rest."""
    with contextlib.suppress(OSError), connection.makefile("rb") as stream:
        while head := stream.read(1):
            size = shift = 0
            while True:
                head += stream.read(1)
                size |= (head[-1] & 127) << shift
                shift += 7
                if head[-1] < 128:
                    break
            yield head + stream.read(size)


class HookServer:
    """An HTTP server that keeps requests and answers each with the next status of `answers`, or 200.

    The answer "hang" sends nothing; "drip" sends a status and then one letter of a header at a time, for as long as the
    client reads.
    """

    def __init__(self) -> None:
        self.answers: list[int | str] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.closed, self.dripped = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/T0KEN"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((dict(self.headers), body))
                answer = outer.answers.pop(0) if outer.answers else 200
                if answer == "hang":
                    time.sleep(3)
                    return
                if answer == "drip":
                    self.drip()
                    return
                self.send_response(int(answer))
                self.send_header("Location", outer.url + "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def drip(self) -> None:
                with contextlib.suppress(OSError):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    while not outer.closed.wait(0.02):
                        self.wfile.write(b"x")
                outer.dripped.set()

            do_GET = do_POST

            def log_message(self, *_: object) -> None: ...

        return Handler

    @property
    def frames(self) -> list[int]:
        return [json.loads(body)["frame"] for _, body in self.requests]

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()
