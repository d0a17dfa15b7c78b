"""Requests about the sources, /api/sources, in JSON.

GET says which there are: a list of {"name", "kind", "paused"}. The body of a PUT is an object by names; sources that it
does not name are not touched:

| value                           | meaning |
|---------------------------------|---------|
| {"uri": "rtsp://...", ...}      | added, or in the place of the one by that name: a table of the sources file |
| {"paused": true}                | its camera or stream is closed; with false it is opened again |
| null                            | removed |
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from attri.runtime._util.redact import redact
from attri.runtime.errors import AttriError, BundleError, EngineError, UsageError
from attri.runtime.web.edits import EditRequests
from attri.runtime.web.responses import json_response
from attri.runtime.web.views import plain_text

if TYPE_CHECKING:
    from starlette.responses import Response

_LOGGER = logging.getLogger("attri")


class SourceRequests(EditRequests):
    """Handlers of /api/sources."""

    path, about, limit = "/api/sources", "the sources are", 1 << 20
    client_errors = (UsageError, BundleError, EngineError)  # as of prompts, which sources bring along

    def read(self, source: str | None, task: str | None) -> Response:
        """The sources, without their addresses, which may hold passwords."""
        sources = self.control.sources()
        return json_response(
            [{"name": plain_text(each.name), "kind": each.kind, "paused": each.paused} for each in sources]
        )

    def use(self, data: bytes, source: str | None, task: str | None) -> None:
        """Add, replace, remove, pause and resume sources, all or none of those that are named."""
        try:
            tables = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the sources are not JSON: {plain_text(str(error))}") from error
        if source is not None or task is not None:
            raise UsageError("the names of sources are in the body, and not behind a ?")
        if not isinstance(tables, dict) or not tables:
            raise UsageError('the sources are a JSON object by names: {"gate": {"uri": "rtsp://..."}}')
        try:
            self.control.change_sources(tables)
        except AttriError as error:
            _LOGGER.warning("%s; the sources from before stay", redact(str(error)))
            raise
