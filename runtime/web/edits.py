"""What can be read and replaced by requests: sources, regions, labels, prompts; files hold all but the first.

| request       | response |
|---------------|----------|
| GET PATH      | what is in use, of ?source= and ?task= or of all (409 if they differ) |
| PUT PATH      | the body takes its place from the next frame on; also what is in use then |
| GET PATH/file | where it comes from |
| PUT PATH/file | what is in use is written into that file, so that it is used after a restart too |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attri.runtime.deliver.sink import FileOrigin, PipelineControl
from attri.runtime.errors import AttriError, UsageError
from attri.runtime.web.responses import json_response, origin_json, read_body, refused, scope

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


class EditRequests:
    """Handlers of GET and PUT PATH for one kind of thing; subclasses say what it is.

    Args:
        control: The pipeline that uses it.

    Attributes:
        path: Of the requests.
        about: How messages begin: "the labels are".
        limit: Bytes of the largest one that is taken.
        client_errors: Errors of `use` for which the client is to blame.
    """

    path = ""
    about = ""
    limit = 0
    client_errors: tuple[type[AttriError], ...] = (UsageError,)

    def __init__(self, control: PipelineControl) -> None:
        self.control = control

    def read(self, source: str | None, task: str | None) -> Response:
        """The response that says what is in use. Raises LabelsError where there is no such source or task."""
        raise NotImplementedError

    def use(self, data: bytes, source: str | None, task: str | None) -> None:
        """Use the body of a request, or raise AttriError and change nothing."""
        raise NotImplementedError

    def routes(self) -> list[Route]:
        """Starlette's routes to the handlers. It runs those that are no coroutines in threads."""
        from starlette.routing import Route

        return [
            Route(self.path, self._get, methods=["GET"]),
            Route(self.path, self._put, methods=["PUT"]),
        ]

    def _get(self, request: Request) -> Response:
        try:
            return self.read(*scope(request))
        except UsageError as error:  # as LabelsError is
            return refused(error, 404)

    async def _put(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        data = await read_body(request, self.limit)
        if data is None:
            return json_response({"error": f"{self.about} larger than {self.limit >> 20} MB"}, 413)
        try:
            await run_in_threadpool(self.use, data, *scope(request))
        except AttriError as error:
            return refused(error, 400, self.client_errors)
        return await run_in_threadpool(self._get, request)


class FileEditRequests(EditRequests):
    """Handlers of PATH and PATH/file, for what came from a file."""

    def origin(self, source: str | None, task: str | None) -> FileOrigin:
        """Where it comes from. Raises LabelsError as `read`."""
        raise NotImplementedError

    def write(self, source: str | None, task: str | None) -> None:
        """Write what is in use into its file, or raise AttriError."""
        raise NotImplementedError

    def routes(self) -> list[Route]:
        """Those to the file, too."""
        from starlette.routing import Route

        return [
            *super().routes(),
            Route(f"{self.path}/file", self._get_file, methods=["GET"]),
            Route(f"{self.path}/file", self._put_file, methods=["PUT"]),
        ]

    def _get_file(self, request: Request) -> Response:
        try:
            return json_response(origin_json(self.origin(*scope(request))))
        except UsageError as error:
            return refused(error, 404)

    def _put_file(self, request: Request) -> Response:
        try:
            self.write(*scope(request))
        except AttriError as error:
            return refused(error, 409)
        return self._get_file(request)
