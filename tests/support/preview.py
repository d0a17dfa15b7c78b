"""A preview over a fake pipeline control, and a client of it."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, NamedTuple

from support.results import FakeControl

from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.web.server import PreviewServer

TOKEN = "correct horse battery"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Talks to a preview, as a browser on this machine would unless told otherwise."""

    def __init__(self, control: FakeControl, token: str | None = TOKEN, host: str = "127.0.0.1", **others: Any) -> None:
        self.control, self.metrics = control, MetricsSink(control)
        self.preview = PreviewServer(control, self.metrics, (host, 0), token, **others)

    def __call__(self, path: str, method: str = "GET", body: bytes | None = None, **headers: Any) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.preview.port, timeout=10)
        try:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes, wait: float = 2.0) -> bytes:
        """What comes back for these bytes, until the server closes or says nothing more."""
        with socket.create_connection(("127.0.0.1", self.preview.port), timeout=wait) as plug:
            plug.sendall(data)
            plug.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := plug.recv(65536):
                answer += chunk
        return answer


def bearer(token: str = TOKEN) -> dict[str, Any]:
    return {"Authorization": f"Bearer {token}"}
