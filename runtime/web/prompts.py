"""Requests about the learned prompt, /api/prompt: a prompt file is sent, and JSON says which one is in use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from attri.runtime._util.redact import redact
from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.errors import AttriError, BundleError, EngineError, UsageError
from attri.runtime.prompt import Prompt
from attri.runtime.web.edits import FileEditRequests
from attri.runtime.web.responses import json_response
from attri.runtime.web.views import plain_text

if TYPE_CHECKING:
    from starlette.responses import Response

_LOGGER = logging.getLogger("attri")


class PromptRequests(FileEditRequests):
    """Handlers of /api/prompt."""

    path, about, limit = "/api/prompt", "the prompt is", 64 << 20  # one of ViT-B-16 has 2 MB
    client_errors = (UsageError, BundleError, EngineError)  # no source; a damaged or foreign file; too many entries

    def read(self, source: str | None, task: str | None) -> Response:
        """What there is to say of the prompt."""
        prompts = self.control.prompts(source, task)
        if len(prompts) > 1:
            return json_response({"error": "the sources or tasks have different prompts: name one"}, 409)
        return json_response(describe(prompts[0]))

    def use(self, data: bytes, source: str | None, task: str | None) -> None:
        """Use a prompt file."""
        try:
            prompt = Prompt.parse(data, "the prompt that was sent")
            self.control.set_prompt(prompt, source, task)
        except AttriError as error:
            _LOGGER.warning("%s; the prompt from before stays", redact(str(error)))
            raise
        _LOGGER.info("prompt %s from outside", prompt.digest[:12])

    def origin(self, source: str | None, task: str | None) -> FileOrigin:
        """Which file it comes from."""
        return self.control.prompt_origin(source, task)

    def write(self, source: str | None, task: str | None) -> None:
        """Write it into that file."""
        self.control.write_prompt(source, task)


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
