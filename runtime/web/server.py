"""A page with what is seen now: live pictures, scores, retrieved entries, labels to edit, health of the sources.

Browsers pull: a frame is encoded when somebody asks for it, once for all who do, so that a slow or stuck browser costs
the pipeline nothing. `write` keeps the newest result of each source and returns.

GET /                    the page, with /preview.js and /preview.css
GET /api/state           sources, with ?source=NAME the details of one
GET /api/frame?source=   the newest frame, JPEG
GET, PUT /api/labels     the labels as a file, of ?source= or of all (409 where they differ); PUT answers with what is
                         used from now on
GET, PUT /api/labels/file   where those labels come from; PUT writes them into that file
GET /healthz             200, or 503 where no source gives frames; the sources for who may read the rest
GET /metrics             Prometheus
"""

from __future__ import annotations

import functools
import logging
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attri.runtime._util.net import is_loopback, listen
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import AttriError, LabelsError, MissingExtra, UsageError
from attri.runtime.web.auth import AuthMiddleware
from attri.runtime.web.timeouts import Deadlines, bounded
from attri.runtime.web.views import Latest, detail, encoded, plain_text, summary

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from attri.runtime.deliver.metrics import MetricsSink

_SOURCES = 64  # kept at most
_AGAIN = 1.0  # seconds between looks for a place for those that are left out
_BODY = 1 << 20  # bytes of labels
_CLIENTS = 64  # connections; beyond them the one that keeps us waiting longest is closed, else 503
_TOKEN = 16  # characters at least, where others can try
_PICTURES = "pictures"
_WORKS = ("opening", "live", "ended")
_FILES = {
    "/": "text/html",
    "/preview.js": "text/javascript",
    "/preview.css": "text/css",
    "/preview.svg": "image/svg+xml",
}


class PreviewServer:
    """The server, in a thread of its own, and the sink that feeds it.

    Args:
        control: for labels and health.
        metrics: what /metrics says; a sink of its own.
        address: host and port; port 0 takes a free one.
        token: needed to change labels; for everything that tells something, where the address is not loopback.
        names: of this machine beside its own, as a proxy or the network's DNS has them.
        deadlines: for clients.

    Raises:
        UsageError: the address is open to others and there is no token, or is reserved.
        FailedError: the address cannot be had.
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
        names: Sequence[str] = (),
        deadlines: Deadlines = Deadlines(),  # noqa: B008  # frozen
    ) -> None:
        self._control, self._metrics = control, metrics
        self._latest: dict[str, Latest] = {}
        self._left_out: set[str] = set()
        self._looked = 0.0  # for a place; monotonic
        self._lock = threading.Lock()
        self._editable = token is not None
        app = self._routes()
        self._socket = listen_guarded(address, token)
        host, self.port = self._socket.getsockname()[:2]
        private = is_loopback(host)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._server = _server(AuthMiddleware(app, token, private, names), deadlines)
        self._thread = threading.Thread(target=self._serve, args=(self._socket,), name="preview", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        key = _PICTURES if result.still else result.source
        ms = result.prediction.latency_ms
        if not self._has_place(key):
            return
        with self._lock:
            latest = self._latest.setdefault(key, Latest(result, 0))
            latest.result, latest.number = result, latest.number + 1
            latest.latency.append((ms["preprocess"], ms["vision"], ms["text"]))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(1.2)
        self._socket.close()

    def _has_place(self, key: str) -> bool:
        """Whether the source is shown. Who came first stays: others get a place when one of those has ended."""
        if key not in self._latest and len(self._latest) >= _SOURCES and not self._remove_ended():
            self._left_out.add(key)
            return False
        self._left_out.discard(key)
        return True

    def _remove_ended(self) -> bool:
        if time.monotonic() < self._looked + _AGAIN:  # it may be asked for every frame of many sources
            return False
        self._looked = time.monotonic()
        over = {each.source for each in self._control.health() if each.state in ("ended", "dead")}
        oldest = next((name for name in self._latest if name in over), None)
        if oldest is not None:
            with self._lock:
                del self._latest[oldest]
            self._looked = 0.0  # there may be more of them
        return oldest is not None

    def _serve(self, listening: socket.socket) -> None:
        self._server.run([listening])

    def _routes(self) -> Any:
        try:
            import uvicorn  # noqa: F401  # now, not when everything else is open
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
            Route("/healthz", self._get_health, methods=["GET"]),
            Route("/metrics", self._get_metrics, methods=["GET"]),
        ]
        return Starlette(routes=routes)

    # Plain functions: Starlette runs them in threads.

    def _get_state(self, request: Request) -> Response:
        wanted = request.query_params.get("source")
        with self._lock:
            latest = {name: (each, each.result, each.number) for name, each in self._latest.items()}
            history = list(latest[wanted][0].latency) if wanted in latest else []
        health = {each.source: each for each in self._control.health()}
        names = dict.fromkeys([*health, *latest])
        sources = [summary(name, latest.get(name), health.get(name)) for name in names]
        places = _SOURCES - len(latest)
        for each in sources:  # those that wait for their first frame have a card as long as there are places
            if each["card"] and not each["number"]:
                each["card"], places = places > 0, places - 1
        state = {
            "sources": sources,
            "left_out": sum(name in self._left_out for name in names),
            "detail": detail(latest[wanted][1], history) if wanted in latest else None,
            "editable": self._editable,
            "now": time.time(),
        }
        return _json(state)

    def _get_frame(self, request: Request) -> Response:
        from starlette.responses import Response

        with self._lock:
            latest = self._latest.get(request.query_params.get("source", ""))
        if latest is None:
            return _json({"error": "there is no frame of this source"}, 404)
        number, data = encoded(latest, self._lock)
        return Response(data, media_type="image/jpeg", headers={"X-Attri-Number": str(number)})

    def _get_labels(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        source = request.query_params.get("source")
        if source is None and self._labels_differ():
            return _json({"error": "the sources have different labels: name one"}, 409)
        try:
            text = self._control.labels_text(source)
        except LabelsError as error:
            return _refused(error, 404)
        return PlainTextResponse(text.encode(errors="replace"))

    async def _put_labels(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > _BODY:
                return _json({"error": f"the labels are longer than {_BODY >> 20} MB"}, 413)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            return _json({"error": f"the labels are not UTF-8 at byte {error.start}"}, 400)
        try:
            await run_in_threadpool(self._control.set_labels, text, request.query_params.get("source"))
        except AttriError as error:
            return _refused(error, 400)
        return self._get_labels(request)

    def _get_labels_file(self, request: Request) -> Response:
        try:
            origin = self._control.labels_origin(request.query_params.get("source"))
        except LabelsError as error:
            return _refused(error, 404)
        file = None if origin.file is None else plain_text(origin.file)
        return _json({"file": file, "edited": origin.edited, "sources": [plain_text(each) for each in origin.sources]})

    def _put_labels_file(self, request: Request) -> Response:
        try:
            self._control.write_labels(request.query_params.get("source"))
        except AttriError as error:
            return _refused(error, 409)
        return self._get_labels_file(request)

    def _labels_differ(self) -> bool:
        return len({tuple(self._control.labels(each.source)) for each in self._control.health()}) > 1

    def _get_health(self, request: Request) -> Response:
        sources = self._control.health()
        working = sum(each.state in _WORKS for each in sources)
        status = "ok" if working == len(sources) else "degraded" if working else "failing"
        body: dict[str, Any] = {"status": status}
        if request.scope["trusted"]:  # names are addresses of cameras
            body["sources"] = {plain_text(each.source): each.state for each in sources}
        return _json(body, 503 if status == "failing" else 200)

    def _get_metrics(self, _request: Request) -> Response:
        from starlette.responses import Response

        data, kind = self._metrics.render()
        return Response(data, headers={"Content-Type": kind})


def listen_guarded(address: tuple[str, int], token: str | None) -> socket.socket:
    """A listening socket that the token keeps strangers from. Raises UsageError, FailedError."""
    listening = listen(address, "--serve")
    try:
        _check_token(token, is_loopback(listening.getsockname()[0]))
    except UsageError:
        listening.close()
        raise
    return listening


def _check_token(token: str | None, private: bool) -> None:
    """Raises UsageError: others can reach the address, and nothing that is hard to guess keeps them out."""
    where = "set ATTRI_SERVE_TOKEN, or --serve-token-file; openssl rand -hex 16 makes a good one"
    if token is not None and not token.isascii():
        raise UsageError(f"--serve: a token of letters and digits, please: {where}")
    if not private and len(token or "") < _TOKEN:
        raise UsageError(f"--serve: others can reach this address, so a token of {_TOKEN} or more is needed: {where}")


def _server(app: Any, deadlines: Deadlines) -> Any:
    from uvicorn import Config, Server

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line for each odd request could fill a disk
    return Server(
        Config(
            app,
            http=bounded(deadlines),
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

    file = Path(__file__).parent / "static" / (path.strip("/") or "preview.html")
    return Response(file.read_bytes(), media_type=_FILES[path])


def _refused(error: AttriError, status: int) -> Response:
    """What a request cannot have; or what failed here, and is no fault of the request."""
    return _json({"error": plain_text(str(error))}, status if isinstance(error, UsageError) else 500)


def _json(content: Any, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status)
