"""Requests that classify images: POST /api/classify, with the labels and the prompt that are in use.

The body is an image, or a form (multipart/form-data) of several. The answer is a list with the objects that `attri-run
--json` prints, in the order of the images; the object of an image that cannot be read has `error` in place of a result.
?source=, ?task= and ?topk= say what is asked.

One request is worked on at a time, and all together may take a share of the time: cameras go before.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attri.runtime.deliver.format import json_object
from attri.runtime.deliver.sink import PipelineControl, SentImage
from attri.runtime.errors import AttriError, ImageError, UsageError
from attri.runtime.web.forms import FORM, files_of_form
from attri.runtime.web.responses import json_response, read_body, refused, scope
from attri.runtime.web.views import plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

MAX_BYTES = 32 << 20  # bytes of a request
_IMAGES = 32  # of a request
_INSIDE = 8  # requests that are received, wait or are worked on; bodies are in memory


class TimeBudget:
    """Time that requests may take: a share of it, and what is left over is kept for a burst.

    Args:
        share: Seconds that may be spent in each second, on average.
        most: Seconds that are kept.
        clock: Gives seconds.
    """

    def __init__(self, share: float = 0.5, most: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._most, self._clock = share, most, clock
        self._left, self._looked = most, clock()

    def seconds_to_wait(self) -> float:
        """Seconds until something may be spent; 0 now."""
        return max(0.0, -self._now()) / self._share

    def spend(self, seconds: float) -> None:
        """Note that so many seconds were taken; they may be more than there were."""
        self._left = self._now() - seconds

    def _now(self) -> float:
        now = self._clock()
        self._left, self._looked = min(self._most, self._left + self._share * (now - self._looked)), now
        return self._left


class ClassifyRequests:
    """Handler of /api/classify.

    Args:
        control: The pipeline whose classifier is asked.
        budget: Time that requests may take.
    """

    def __init__(self, control: PipelineControl, budget: TimeBudget | None = None) -> None:
        self._control, self._budget = control, budget or TimeBudget()
        self._turn = asyncio.Lock()
        self._inside = 0

    def routes(self) -> list[Route]:
        """Starlette's route to the handler."""
        from starlette.routing import Route

        return [Route("/api/classify", self._post, methods=["POST"])]

    async def _post(self, request: Request) -> Response:
        if self._inside >= _INSIDE:
            return too_many(1.0)
        self._inside += 1
        try:
            return self._out_of_time() or await self._answer(request)
        except AttriError as error:
            return refused(error, 400)
        finally:
            self._inside -= 1

    def _out_of_time(self) -> Response | None:
        seconds = self._budget.seconds_to_wait()
        return too_many(seconds) if seconds else None

    async def _answer(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        topk = _topk(request)
        data = await read_body(request, MAX_BYTES)
        if data is None:
            return json_response({"error": f"the images are larger than {MAX_BYTES >> 20} MB together"}, 413)
        content_type = request.headers.get("content-type", "")
        async with self._turn:
            if (refusal := self._out_of_time()) is not None:  # because of those that came first
                return refusal
            started = time.monotonic()
            try:
                content = await run_in_threadpool(self._classify, data, content_type, topk, *scope(request))
            finally:
                self._budget.spend(time.monotonic() - started)
        return json_response(content)

    def _classify(self, data: bytes, content_type: str, topk: int, source: str | None, task: str | None) -> list[Any]:
        images = _images(data, content_type)
        content: list[dict[str, Any]] = []
        for image, found in zip(images, self._control.classify(images, source, task), strict=True):
            if isinstance(found, ImageError):
                content.append({"source": image.name, "error": plain_text(str(found))})
            else:
                content += [json_object(result, topk) for result in found]
        return content


def too_many(seconds: float) -> Response:
    """The response to a request that comes too early by so many seconds."""
    response = json_response({"error": "too many requests: see the header Retry-After"}, 429)
    response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response


def _topk(request: Request) -> int:
    """How many of the best labels are asked for. Raises UsageError."""
    text = request.query_params.get("topk", "1")
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise UsageError("topk is a whole number from 1")
    return int(text)


def _images(data: bytes, content_type: str) -> list[SentImage]:
    """The images in the body of a request. Raises UsageError."""
    if not data:
        raise UsageError("no image was sent: curl --data-binary @photo.jpg, or -F image=@photo.jpg for each of several")
    if content_type.lower().startswith(FORM):
        return files_of_form(data, content_type, _IMAGES)
    return [SentImage("image", data)]
