"""Requests that explain: GET /api/explain and /api/explain.png say what in the newest frame speaks for its label.

?source= and ?task= say which frame; ?label= and &other= take two labels in the place of the decided and the next best
one. The JSON has the fields of `attri-run --explain`; the header X-Attri-Number names the frame.

One request is worked on at a time, and all together may take a share of the time: cameras go before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from attri.runtime.deliver.explain.panels import explanation_json, labels_to_explain, panels_png
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import PipelineControl
from attri.runtime.errors import AttriError, LabelsError, UsageError
from attri.runtime.explain.explanation import Explanation
from attri.runtime.web.classify import TimeBudget, too_many
from attri.runtime.web.responses import json_response, refused

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


class ExplainRequests:
    """Handlers of /api/explain and /api/explain.png.

    Args:
        control: The pipeline, which explains.
        newest: Gives the newest result of a source and task with its number, or None where there is none.
        budget: Time that requests may take.
    """

    def __init__(
        self,
        control: PipelineControl,
        newest: Callable[[ResultKey], tuple[FrameResult, int] | None],
        budget: TimeBudget | None = None,
    ) -> None:
        self._control, self._newest, self._budget = control, newest, budget or TimeBudget()
        self._turn = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Starlette's routes to the handlers."""
        from starlette.routing import Route

        paths = ("/api/explain", "/api/explain.png")
        return [Route(path, self._get, methods=["GET"]) for path in paths]

    async def _get(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        async with self._turn:
            if seconds := self._budget.seconds_to_wait():
                return too_many(seconds)
            query = request.query_params
            found = self._newest(ResultKey(query.get("source", ""), query.get("task")))
            if found is None:
                return json_response({"error": "there is no frame of this source"}, 404)
            result, number = found
            labels = [query["label"]] if "label" in query else labels_to_explain(result)
            labels = [*labels[:1], query["other"]] if "other" in query else labels
            started = time.monotonic()
            try:
                explanation = await run_in_threadpool(self._control.explain, result, labels)
                drawn = request.url.path.endswith(".png")
                png = await run_in_threadpool(_drawn, result, explanation) if drawn else None
            except AttriError as error:
                return refused(error, 400, (UsageError, LabelsError))
            finally:
                self._budget.spend(time.monotonic() - started)
        if png is not None:
            response: Response = Response(png, media_type="image/png")
        else:
            response = json_response(explanation_json(explanation, result))
        response.headers["X-Attri-Number"] = str(number)
        return response


def _drawn(result: FrameResult, explanation: Explanation) -> bytes:
    return panels_png(Image.fromarray(result.part), explanation, stacked=True)
