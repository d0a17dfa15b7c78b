"""Who stands at the other end of a sink: a real Mosquitto with a listener, and an HTTP server for webhooks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
PREFIX = "attri/line2"
real = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Mosquitto:
    """A broker on loopback that can be killed and started again at the same port."""

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
    """Everything on a broker, as it came: (topic, payload, retained)."""

    def __init__(
        self, port: int, user: tuple[str, str] | None = None, ca: Path | None = None, name: str | None = None
    ) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, bytes, bool]] = []
        # With a name, the broker keeps its subscription and what it misses.
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=name or "", clean_session=name is None)
        self.client.on_message = lambda _c, _d, m: self.messages.append((m.topic, m.payload, m.retain))
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


class HookServer:
    """Keeps what comes, and answers with the next of `answers`, or 200; "hang" answers nothing."""

    def __init__(self) -> None:
        self.answers: list[int | str] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
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
                self.send_response(int(answer))
                self.send_header("Location", outer.url + "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None: ...

        return Handler

    @property
    def frames(self) -> list[int]:
        return [json.loads(body)["frame"] for _, body in self.requests]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
