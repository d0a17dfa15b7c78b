"""Connections of the preview: deadlines, slow and greedy clients, many readers, its end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.fakes import wait_for
from support.preview import TOKEN, Client, bearer
from support.results import FakeControl, make_result

from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.errors import FailedError
from attri.runtime.web.server import PreviewServer
from attri.runtime.web.timeouts import Deadlines, deadline_protocol

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def plug(client: Client) -> Iterator[Callable[..., socket.socket]]:
    """plug(bytes) is a new connection over which they were sent; it takes little before it is read."""
    plugs = []

    def open_plug(data: bytes, port: int | None = None) -> socket.socket:
        plugs.append(socket.socket())
        plugs[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plugs[-1].connect(("127.0.0.1", port or client.preview.port))
        plugs[-1].sendall(data)
        return plugs[-1]

    yield open_plug
    for each in plugs:
        each.close()


def is_closed(plug: socket.socket) -> bool:
    """Whether the server has closed the connection; nothing is read."""
    poll = select.poll()
    poll.register(plug, select.POLLRDHUP)
    return bool(poll.poll(0))


def held_connections(port: int) -> int:
    """How many the server holds: of one that it has closed, whose client reads nothing, only the kernel knows."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening, nobody = "0A", "0"
    return sum(row[1].endswith(f":{port:04X}") and row[3] != listening and row[9] != nobody for row in rows)


@pytest.mark.parametrize("begin", [HALF, HALF + b"\r\n" + HALF, b""], ids=["half", "second half", "silent"])
def test_slow_clients_cannot_hold_all_places(client: Client, plug: Callable[..., socket.socket], begin: bytes) -> None:
    plugs = [plug(begin) for _ in range(150)]
    for each in plugs[-63:]:
        with contextlib.suppress(ConnectionError):
            each.sendall(b"X")
    wait_for(lambda: client("/healthz").status == 200)  # not before whole requests among them are answered
    wait_for(lambda: sum(map(is_closed, plugs)) >= 150 - 64)  # the number of open connections is bounded


def test_clients_that_read_nothing_cannot_hold_all_places(client: Client, plug: Callable[..., socket.socket]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (720, 960, 3), np.uint8)
    client.preview.write(make_result(image=noise))
    request = b"GET /api/frame?source=camera0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    plugs = [plug(request * 40) for _ in range(100)]
    wait_for(lambda: any(map(is_closed, plugs)))
    wait_for(lambda: client("/healthz").status == 200)
    for frame in range(200):
        client.preview.write(make_result(frame=frame, image=noise))


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET / HTTP/1.1\r\nX-Long: ",
        b"PUT /api/labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\nAuthorization: Bearer %s\r\n\r\n"
        % TOKEN.encode(),
        b"PUT /api/labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n",  # refused at once
        HALF + b"\r\nGET / HTTP/1.1\r\nX-Long: ",
    ],
    ids=["nothing", "headers", "body", "body of a refused one", "second request"],
)
def test_a_request_that_trickles_in_has_a_deadline(open_preview, plug, begin: bytes) -> None:
    """A byte now and then, which uvicorn's own limit takes for a sign of life."""
    client = open_preview(FakeControl(), deadlines=Deadlines(receive=0.4))
    slow = plug(begin, client.preview.port)

    def trickle() -> bool:
        with contextlib.suppress(ConnectionError):
            slow.sendall(b"x")
        return is_closed(slow)

    wait_for(trickle) if begin else wait_for(lambda: is_closed(slow))


def test_an_answer_may_take_longer_than_the_deadlines(open_preview) -> None:
    class Slow(FakeControl):
        def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
            time.sleep(1.0)
            super().set_labels(text, source, task)

    client = open_preview(Slow(), deadlines=Deadlines(receive=0.2, send=0.2))
    answer = client("/api/labels", "PUT", b"cat", **bearer())
    assert (answer.status, answer.body) == (200, b"cat\n")


def test_who_does_not_take_the_answer_is_closed(open_preview, plug) -> None:
    client = open_preview(FakeControl(), deadlines=Deadlines(send=0.4))
    noise = np.random.default_rng(0).integers(0, 256, (720, 960, 3), np.uint8)
    client.preview.write(make_result(image=noise))
    request = b"GET /api/frame?source=camera0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    plug(request * 40, client.preview.port)
    wait_for(lambda: held_connections(client.preview.port) == 1)
    wait_for(lambda: held_connections(client.preview.port) == 0)


def test_a_stream_may_outlast_the_deadlines() -> None:
    """Whose reader keeps up; nothing of ours streams today."""
    import uvicorn
    from starlette.responses import StreamingResponse

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0.1)
            yield bytes(50_000)

    protocol = deadline_protocol(Deadlines(receive=0.3, send=0.3))
    config = uvicorn.Config(StreamingResponse(chunks()), http=protocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=10)
        connection.request("GET", "/")
        assert len(connection.getresponse().read()) == 500_000
        connection.close()
        server.should_exit = True
        thread.join()


def test_many_read_while_frames_come(client: Client) -> None:
    client.preview.write(make_result())
    seen: list[int] = []

    def browse() -> None:
        for _ in range(10):
            assert client("/api/state?source=camera0").status == 200
            seen.append(int(client("/api/frame?source=camera0").headers["x-attri-number"]))

    browsers = [threading.Thread(target=browse) for _ in range(6)]
    for browser in browsers:
        browser.start()
    frame = 0
    while any(browser.is_alive() for browser in browsers):
        client.preview.write(make_result(frame=frame))
        frame += 1
        time.sleep(0.002)
    assert len(seen) == 60
    assert max(seen) > 1


def test_closing_is_quick_and_frees_the_port(open_preview) -> None:
    client = open_preview(FakeControl())
    with socket.create_connection(("127.0.0.1", client.preview.port)) as plug:
        plug.sendall(b"GET / HTTP/1.1\r\nHost: local")
        start = time.monotonic()
        client.preview.close()
        assert time.monotonic() - start < 5
    address = ("127.0.0.1", client.preview.port)
    PreviewServer(client.control, MetricsSink(client.control), address).close()


def test_an_address_that_is_taken(client: Client) -> None:
    with pytest.raises(FailedError, match=r"^127.0.0.1:\d+: the port is in use: stop the other program"):
        PreviewServer(client.control, MetricsSink(client.control), ("127.0.0.1", client.preview.port))
