"""The preview server: a web page with live images, scores, retrieved pool entries, labels to edit, and health.

Browsers poll. A frame is encoded only when one asks for it, once for all, so that a slow browser never delays the
pipeline: `write` keeps the newest result of each source and returns.

| request                   | response |
|---------------------------|----------|
| GET /                     | the page; its parts are /preview.js, /preview.css and /preview.svg |
| GET /api/state            | all sources and tasks; with ?source=NAME&task=NAME also the details of one |
| GET /api/frame?source=    | the newest frame, JPEG; &task= where the source has several |
| GET, PUT /api/labels      | the labels, see `attri.runtime.web.edits`; likewise /api/labels/file |
| GET, PUT /api/prompt      | the learned prompt, in the same way |
| GET, PUT /api/sources     | the sources; see `attri.runtime.web.sources` |
| GET, PUT /api/regions     | the regions of one; see `attri.runtime.web.regions` |
| POST /api/classify        | classifies images that are sent, see `attri.runtime.web.classify` |
| GET /api/explain          | what speaks for the label of the newest frame, see `attri.runtime.web.explain` |
| GET /review, /api/review  | the page of collected images, see `attri.runtime.web.review` |
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
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attri.runtime._util.net import is_loopback, listen
from attri.runtime.collection.folder import Collection
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import MissingExtra, UsageError
from attri.runtime.web.auth import AuthMiddleware
from attri.runtime.web.classify import ClassifyRequests
from attri.runtime.web.explain import ExplainRequests
from attri.runtime.web.labels import LabelRequests
from attri.runtime.web.prompts import PromptRequests
from attri.runtime.web.regions import RegionRequests
from attri.runtime.web.responses import json_response
from attri.runtime.web.review import ReviewRequests
from attri.runtime.web.sources import SourceRequests
from attri.runtime.web.timeouts import Deadlines, deadline_protocol
from attri.runtime.web.views import SourceView, card_json, detail_json, jpeg, plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from attri.runtime.deliver.metrics import MetricsSink
    from attri.runtime.deliver.updates.exchange import Exchange

_CARDS = 64  # largest number, each of a source and task
_CLEANUP_INTERVAL = 1.0  # seconds between searches for ended sources that can give up their place
_CLIENTS = 64  # connections; beyond them the one that has kept the server waiting longest is closed
_TOKEN = 16  # shortest token, characters, if other machines can reach the server
_WORKS = ("opening", "live", "paused", "ended")
_FILES = {
    "/": "text/html",
    "/preview.js": "text/javascript",
    "/preview.css": "text/css",
    "/preview.svg": "image/svg+xml",
    "/page.js": "text/javascript",
    "/regions.js": "text/javascript",
    "/review": "text/html",
    "/review.js": "text/javascript",
    "/review.css": "text/css",
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
        collected: The folder of collected images; None where none are collected.
        updates: What is known of updates of the bundle; None where none are followed.

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
        collected: Path | None = None,
        updates: Exchange | None = None,
    ) -> None:
        self._control, self._metrics, self._updates = control, metrics, updates
        self._collection = None if collected is None else Collection(collected)
        self._views: dict[ResultKey, SourceView] = {}
        self._left_out: set[ResultKey] = set()
        self._seen: set[str] = set()  # sources that there are or were
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

    def _newest(self, key: ResultKey) -> tuple[FrameResult, int] | None:
        """The newest result of a source and task, with its number."""
        with self._lock:
            view = self._views.get(key)
            return None if view is None else (view.result, view.number)

    def _has_place(self, key: ResultKey) -> bool:
        """Whether there is a card for it. Those that came first stay; others get the places of what has ended."""
        if key not in self._views and len(self._views) >= _CARDS and not self._remove_ended():
            self._left_out.add(key)
            return False
        self._left_out.discard(key)
        return True

    def _forget_all_but(self, sources: set[str]) -> None:
        """Drop the cards of sources that were removed; a late result may have made one again."""
        self._seen |= sources
        gone = self._seen - sources
        self._views = {key: view for key, view in self._views.items() if key.origin not in gone}
        self._left_out = {key for key in self._left_out if key.origin not in gone}

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
            import python_multipart  # noqa: F401  # missing modules show here, before anything is opened
            import tomlkit  # noqa: F401
            import uvicorn  # noqa: F401
            from starlette.applications import Starlette
            from starlette.routing import Route
        except ModuleNotFoundError as error:
            raise MissingExtra("starlette", "uvicorn", "python_multipart", "tomlkit") from error
        routes = [Route(path, functools.partial(_page, path), methods=["GET"]) for path in _FILES]
        routes += [
            Route("/api/state", self._get_state, methods=["GET"]),
            Route("/api/frame", self._get_frame, methods=["GET"]),
            *LabelRequests(self._control).routes(),
            *PromptRequests(self._control).routes(),
            *SourceRequests(self._control).routes(),
            *RegionRequests(self._control).routes(),
            *ClassifyRequests(self._control).routes(),
            *ExplainRequests(self._control, self._newest).routes(),
            *ReviewRequests(self._control, self._collection, self._editable).routes(),
            Route("/healthz", self._get_health, methods=["GET"]),
            Route("/metrics", self._get_metrics, methods=["GET"]),
        ]
        return Starlette(routes=routes)

    # Starlette runs functions that are not coroutines in threads.

    def _get_state(self, request: Request) -> Response:
        wanted = ResultKey(request.query_params.get("source", ""), request.query_params.get("task"))
        every = self._control.health()
        with self._lock:
            self._forget_all_but({each.source for each in every})
            latest = {key: (each, each.result, each.number) for key, each in self._views.items()}
            history = list(latest[wanted][0].latency) if wanted in latest else []
        health = {key: each for each in every for key in each.keys}
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
            "load": asdict(self._control.load()),
            "editable": self._editable,
            "collects": self._collection is not None,
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

    def _get_health(self, request: Request) -> Response:
        sources = self._control.health()
        working = sum(each.state in _WORKS for each in sources)
        status = "ok" if working == len(sources) else "degraded" if working else "failing"
        body: dict[str, Any] = {"status": status}
        if request.scope["trusted"]:  # names are addresses of cameras
            body["sources"] = {plain_text(each.source): each.state for each in sources}
            if self._updates is not None:
                told = self._updates.update()
                body |= {"bundle": told.get("runs"), "update": told.get("update")}
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

    name = {"/": "preview.html", "/review": "review.html"}.get(path, path.strip("/"))
    file = resources.files("attri.runtime.web") / "static" / name
    return Response(file.read_bytes(), media_type=_FILES[path])
