"""Requests about the learned prompt: which one is in use, and a new one in its place.

| request         | response |
|-----------------|----------|
| GET /api/prompt | what is in use, of ?source= and ?task= or of all (409 if they differ) |
| PUT /api/prompt | the body is a prompt file, which counts from the next frame on; also what is in use then |
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from attri.runtime._util.redact import redact
from attri.runtime.deliver.sink import PipelineControl
from attri.runtime.errors import AttriError, BundleError, EngineError, LabelsError, UsageError
from attri.runtime.prompt import Prompt
from attri.runtime.web.responses import json_response, refused, scope
from attri.runtime.web.views import plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

MAX_BYTES = 64 << 20  # of a prompt that is sent; one of ViT-B-16 has 2 MB
_CLIENT_ERRORS = (UsageError, BundleError, EngineError)  # no source; a damaged or foreign file; too many entries
_LOGGER = logging.getLogger("attri")


class PromptRequests:
    """Handlers of /api/prompt.

    Args:
        control: The pipeline whose prompts they read and replace.
    """

    def __init__(self, control: PipelineControl) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """Starlette's routes to the handlers."""
        from starlette.routing import Route

        path = "/api/prompt"
        return [Route(path, self._get, methods=["GET"]), Route(path, self._put, methods=["PUT"])]

    def _get(self, request: Request) -> Response:
        try:
            prompts = self._control.prompts(*scope(request))
        except LabelsError as error:
            return refused(error, 404)
        if len(prompts) > 1:
            return json_response({"error": "the sources or tasks have different prompts: name one"}, 409)
        return json_response(describe(prompts[0]))

    async def _put(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BYTES:
                return json_response({"error": f"the prompt is larger than {MAX_BYTES >> 20} MB"}, 413)
        try:
            await run_in_threadpool(self._use, bytes(data), *scope(request))
        except AttriError as error:
            _LOGGER.warning("%s; the prompt from before stays", redact(str(error)))
            return refused(error, 400, _CLIENT_ERRORS)
        return self._get(request)

    def _use(self, data: bytes, source: str | None, task: str | None) -> None:
        prompt = Prompt.parse(data, "the prompt that was sent")
        self._control.set_prompt(prompt, source, task)
        _LOGGER.info("prompt %s from outside", prompt.digest[:12])


def describe(prompt: Prompt) -> dict[str, Any]:
    """What a page says of a prompt; JSON values."""
    facts = prompt.facts
    return {
        "digest": prompt.digest,
        "created": plain_text(facts.created),
        "selection": facts.selection,
        "entries": prompt.entries,
        "labels": len(facts.labels),
        "template": plain_text(facts.template),
        "threshold": facts.threshold,
    }
