"""The preview server: a web page with live images, scores, retrieved pool entries, labels to edit, and health.

Browsers poll. A frame is encoded only when one asks for it, once for all, so that a slow browser never delays the
pipeline: `write` keeps the newest result of each source and returns.

| request                   | response |
|---------------------------|----------|
| GET /                     | the page; its parts are /preview.js, /preview.css and /preview.svg |
| GET /api/state            | all sources and tasks; with ?source=NAME&task=NAME also the details of one |
| GET /api/frame?source=    | the newest frame, JPEG; &task= where the source has several |
| GET, PUT /api/labels      | the labels as a labels file, of ?source=&task=, or of all (409 if they differ) |
| GET, PUT /api/prompt      | the learned prompt, see `attri.runtime.web.prompts` |
| GET, PUT /api/labels/file | where the labels come from; PUT writes them into that file |
| GET /healthz              | 200, or 503 if no source gives frames; names of sources only for trusted clients |
| GET /metrics              | Prometheus metrics |
"""

from __future__ import annotations

import functools
import logging
import socket
import threading
import time
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from attri.runtime._util.net import is_loopback, listen
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import AttriError, LabelsError, MissingExtra, UsageError
from attri.runtime.web.auth import AuthMiddleware
from attri.runtime.web.prompts import PromptRequests
from attri.runtime.web.responses import json_response, refused, scope
from attri.runtime.web.timeouts import Deadlines, deadline_protocol
from attri.runtime.web.views import SourceView, card_json, detail_json, jpeg, plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from attri.runtime.deliver.metrics import MetricsSink

_CARDS = 64  # largest number, each of a source and task
_CLEANUP_INTERVAL = 1.0  # seconds between searches for ended sources that can give up their place
_BODY = 1 << 20  # largest labels file, bytes
_CLIENTS = 64  # connections; beyond them the one that has kept the server waiting longest is closed
_TOKEN = 16  # shortest token, characters, if other machines can reach the server
_WORKS = ("opening", "live", "ended")
_FILES = {
    "/": "text/html",
    "/preview.js": "text/javascript",
    "/preview.css": "text/css",
    "/preview.svg": "image/svg+xml",
}


class PreviewServer:
    """The preview page's HTTP server in a thread of its own, and the sink that feeds it.

    Args:
        control: The pipeline, for labels and health.
        metrics: The sink whose metrics /metrics shows.
        address: Host and port; port 0 takes a free one.
        token: Needed to change labels, and to read anything if the address is not loopback; None allows no change.
        allowed_hosts: Further names of this machine, as a proxy or the network's DNS has them.
        deadlines: Request deadlines of clients.

    Attributes:
        port: The port that the server listens on.
        url: Address of the page.

    Raises:
        UsageError: Other machines can reach the address and there is no token, or the port is reserved.
        FailedError: The address cannot be listened on, now.
        MissingExtra: Starlette or uvicorn is not installed.
    """

    name = "preview"
    lossless = False
    takes: SinkFilter = "every_frame"

    def __init__(
        self,
        control: PipelineControl,
        metrics: MetricsSink,
        address: tuple[str, int],
        token: str | None = None,
        allowed_hosts: Sequence[str] = (),
        deadlines: Deadlines = Deadlines(),  # noqa: B008  # frozen
    ) -> None:
        self._control, self._metrics = control, metrics
        self._views: dict[ResultKey, SourceView] = {}
        self._left_out: set[ResultKey] = set()
        self._searched = 0.0  # monotonic time of the last search for ended sources
        self._lock = threading.Lock()
        self._editable = token is not None
        app = self._routes()
        self._socket = listen_guarded(address, token)
        host, self.port = self._socket.getsockname()[:2]
        private = is_loopback(host)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._server = _server(AuthMiddleware(app, token, private, allowed_hosts), deadlines)
        self._thread = threading.Thread(target=self._serve, args=(self._socket,), name="preview", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        """Keep the result as the newest of its source and task."""
        key = result.key
        ms = result.prediction.latency_ms
        if not self._has_place(key):
            return
        with self._lock:
            view = self._views.setdefault(key, SourceView(result, 0))
            view.result = result
            view.number += 1
            view.latency.append((ms["preprocess"], ms["vision"], ms["text"]))

    def close(self) -> None:
        """Stop the server; waits a second for responses on their way."""
        self._server.should_exit = True
        self._thread.join(1.2)
        self._socket.close()

    def _has_place(self, key: ResultKey) -> bool:
        """Whether there is a card for it. Those that came first stay; others get the places of what has ended."""
        if key not in self._views and len(self._views) >= _CARDS and not self._remove_ended():
            self._left_out.add(key)
            return False
        self._left_out.discard(key)
        return True

    def _remove_ended(self) -> bool:
        if (
            time.monotonic() < self._searched + _CLEANUP_INTERVAL
        ):  # this is called for every frame of sources without a place
            return False
        self._searched = time.monotonic()
        over = {each.source for each in self._control.health() if each.state in ("ended", "dead")}
        oldest = next((key for key in self._views if key.origin in over), None)
        if oldest is not None:
            with self._lock:
                del self._views[oldest]
            self._searched = 0.0  # there may be more ended sources
        return oldest is not None

    def _serve(self, listening: socket.socket) -> None:
        self._server.run([listening])

    def _routes(self) -> Any:
        try:
            import uvicorn  # noqa: F401  # missing modules show here, before anything is opened
            from starlette.applications import Starlette
            from starlette.routing import Route
        except ModuleNotFoundError as error:
            raise MissingExtra("starlette", "uvicorn") from error
        routes = [Route(path, functools.partial(_page, path), methods=["GET"]) for path in _FILES]
        routes += [
            Route("/api/state", self._get_state, methods=["GET"]),
            Route("/api/frame", self._get_frame, methods=["GET"]),
            Route("/api/labels", self._get_labels, methods=["GET"]),
            Route("/api/labels", self._put_labels, methods=["PUT"]),
            Route("/api/labels/file", self._get_labels_file, methods=["GET"]),
            Route("/api/labels/file", self._put_labels_file, methods=["PUT"]),
            *PromptRequests(self._control).routes(),
            Route("/healthz", self._get_health, methods=["GET"]),
            Route("/metrics", self._get_metrics, methods=["GET"]),
        ]
        return Starlette(routes=routes)

    # Starlette runs functions that are not coroutines in threads.

    def _get_state(self, request: Request) -> Response:
        wanted = ResultKey(request.query_params.get("source", ""), request.query_params.get("task"))
        with self._lock:
            latest = {key: (each, each.result, each.number) for key, each in self._views.items()}
            history = list(latest[wanted][0].latency) if wanted in latest else []
        health = {key: each for each in self._control.health() for key in each.keys}
        keys = dict.fromkeys([*health, *latest])
        sources = [card_json(key, latest.get(key), health.get(key)) for key in keys]
        places = _CARDS - len(latest)
        for each in sources:  # those without a frame yet have a card as long as there are places
            if each["card"] and not each["number"]:
                each["card"], places = places > 0, places - 1
        state = {
            "sources": sources,
            "left_out": sum(key in self._left_out for key in keys),
            "detail": detail_json(latest[wanted][1], history) if wanted in latest else None,
            "editable": self._editable,
            "now": time.time(),
        }
        return json_response(state)

    def _get_frame(self, request: Request) -> Response:
        from starlette.responses import Response

        with self._lock:
            view = self._views.get(ResultKey(request.query_params.get("source", ""), request.query_params.get("task")))
        if view is None:
            return json_response({"error": "there is no frame of this source"}, 404)
        number, data = jpeg(view, self._lock)
        return Response(data, media_type="image/jpeg", headers={"X-Attri-Number": str(number)})

    def _get_labels(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        source, task = scope(request)
        if self._labels_differ(source, task):
            what = "sources" if source is None else "tasks"
            return json_response({"error": f"the {what} have different labels: name one"}, 409)
        try:
            text = self._control.labels_text(source, task)
        except LabelsError as error:
            return refused(error, 404)
        return PlainTextResponse(text.encode(errors="replace"))

    async def _put_labels(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > _BODY:
                return json_response({"error": f"the labels are longer than {_BODY >> 20} MB"}, 413)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            return json_response({"error": f"the labels are not UTF-8 at byte {error.start}"}, 400)
        try:
            await run_in_threadpool(self._control.set_labels, text, *scope(request))
        except AttriError as error:
            return refused(error, 400)
        return self._get_labels(request)

    def _get_labels_file(self, request: Request) -> Response:
        try:
            origin = self._control.labels_origin(*scope(request))
        except LabelsError as error:
            return refused(error, 404)
        file = None if origin.file is None else plain_text(origin.file)
        return json_response(
            {"file": file, "edited": origin.edited, "sources": [plain_text(each) for each in origin.sources]}
        )

    def _put_labels_file(self, request: Request) -> Response:
        try:
            self._control.write_labels(*scope(request))
        except AttriError as error:
            return refused(error, 409)
        return self._get_labels_file(request)

    def _labels_differ(self, source: str | None, task: str | None) -> bool:
        keys = [key for each in self._control.health() for key in each.keys]
        meant = [key for key in keys if source in (None, key.origin) and task in (None, key.task)]
        return len({tuple(self._control.labels(*key)) for key in meant}) > 1

    def _get_health(self, request: Request) -> Response:
        sources = self._control.health()
        working = sum(each.state in _WORKS for each in sources)
        status = "ok" if working == len(sources) else "degraded" if working else "failing"
        body: dict[str, Any] = {"status": status}
        if request.scope["trusted"]:  # names are addresses of cameras
            body["sources"] = {plain_text(each.source): each.state for each in sources}
        return json_response(body, 503 if status == "failing" else 200)

    def _get_metrics(self, _request: Request) -> Response:
        from starlette.responses import Response

        data, kind = self._metrics.render()
        return Response(data, headers={"Content-Type": kind})


def listen_guarded(address: tuple[str, int], token: str | None) -> socket.socket:
    """A listening socket for the preview.

    Args:
        address: Host and port.
        token: Token of the server.

    Raises:
        UsageError: Other machines can reach the address and the token is missing or too short.
        FailedError: The address cannot be listened on, now.
    """
    listening = listen(address)
    try:
        _check_token(token, is_loopback(listening.getsockname()[0]))
    except UsageError:
        listening.close()
        raise
    return listening


def _check_token(token: str | None, private: bool) -> None:
    """Raises UsageError: Other machines can reach the address and the token is missing or easy to guess."""
    where = "set ATTRI_SERVE_TOKEN, or `serve_token_file`; openssl rand -hex 16 makes a good one"
    if token is not None and not token.isascii():
        raise UsageError(f"the preview's token is of ASCII letters and digits: {where}")
    if not private and len(token or "") < _TOKEN:
        raise UsageError(f"others can reach this address, so a token of {_TOKEN} or more is needed: {where}")


def _server(app: Any, deadlines: Deadlines) -> Any:
    from uvicorn import Config, Server

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line for each invalid request could fill a disk
    return Server(
        Config(
            app,
            http=deadline_protocol(deadlines),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_CLIENTS,
            timeout_graceful_shutdown=1,
        )
    )


def _page(path: str, _request: Request) -> Response:
    from starlette.responses import Response

    file = resources.files("attri.runtime.web") / "static" / (path.strip("/") or "preview.html")
    return Response(file.read_bytes(), media_type=_FILES[path])
