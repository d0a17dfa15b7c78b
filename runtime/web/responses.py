"""What the preview's request handlers share: the query's scope, bodies of a largest size, JSON, and refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.errors import AttriError, UsageError
from attri.runtime.web.views import plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def scope(request: Request) -> tuple[str | None, str | None]:
    """The source and the task that a request is about; None means all."""
    return request.query_params.get("source"), request.query_params.get("task")


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body of a request; None where it has more than `limit` bytes, and then it is not read to its end."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            return None
    return bytes(data)


def json_response(content: Any, status: int = 200) -> Response:
    """A JSON response."""
    from starlette.responses import JSONResponse

    return JSONResponse(content, status)


def origin_json(origin: FileOrigin) -> dict[str, Any]:
    """Where labels or a prompt come from, as JSON values."""
    file = None if origin.file is None else plain_text(origin.file)
    return {"file": file, "edited": origin.edited, "sources": [plain_text(each) for each in origin.sources]}


def refused(error: AttriError, status: int, client_errors: tuple[type[AttriError], ...] = (UsageError,)) -> Response:
    """The response to a request that failed: `status` if the client is to blame, else 500."""
    return json_response({"error": plain_text(str(error))}, status if isinstance(error, client_errors) else 500)
