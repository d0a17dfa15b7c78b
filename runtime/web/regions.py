"""Requests about the regions of a source, /api/regions?source=NAME, in JSON.

| request                | response |
|------------------------|----------|
| GET /api/regions       | {"size": [width, height] of a frame or null, "regions": {NAME: [x, y, width, height]}} |
| PUT /api/regions       | such regions take the place of those that there are, from the next frame on |
| GET /api/regions/frame | the newest whole frame, JPEG |
| GET, PUT .../file      | as of `attri.runtime.web.edits`: whether they are in the sources file, and into it |
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from attri.runtime.capture.orientation import as_rgb
from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.errors import BundleError, EngineError, LabelsError, UsageError
from attri.runtime.web.edits import FileEditRequests
from attri.runtime.web.responses import json_response, refused, scope
from attri.runtime.web.views import encode, plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


class RegionRequests(FileEditRequests):
    """Handlers of /api/regions."""

    path, about, limit = "/api/regions", "the regions are", 1 << 16
    client_errors = (UsageError, BundleError, EngineError)  # as of sources

    def routes(self) -> list[Route]:
        """That of the frame, too."""
        from starlette.routing import Route

        return [*super().routes(), Route(f"{self.path}/frame", self._get_frame, methods=["GET"])]

    def read(self, source: str | None, task: str | None) -> Response:
        """The regions of a source, and the size of its frames."""
        about = self.control.regions(_named(source, task))
        size = None if about.image is None else as_rgb(about.image).shape[1::-1]
        return json_response({"size": size, "regions": {plain_text(name): roi for name, roi in about.rois.items()}})

    def use(self, data: bytes, source: str | None, task: str | None) -> None:
        """Use these regions."""
        try:
            rois = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the regions are not JSON: {plain_text(str(error))}") from error
        if not isinstance(rois, dict):
            raise UsageError('the regions are a JSON object by names: {"door": [100, 80, 300, 400]}')
        self.control.set_regions(_named(source, task), rois)

    def origin(self, source: str | None, task: str | None) -> FileOrigin:
        """Whether they are those of the sources file."""
        return self.control.regions_origin(_named(source, task))

    def write(self, source: str | None, task: str | None) -> None:
        """Write them into it."""
        self.control.write_regions(_named(source, task))

    def _get_frame(self, request: Request) -> Response:
        from starlette.responses import Response

        try:
            image = self.control.regions(_named(*scope(request))).image
        except UsageError as error:
            return refused(error, 404)
        if image is None:
            return json_response({"error": "there is no frame of this source"}, 404)
        return Response(encode(as_rgb(image)), media_type="image/jpeg")


def _named(source: str | None, task: str | None) -> str:
    """The one source that is meant. Raises LabelsError."""
    if source is None or task is not None:
        raise LabelsError("regions are those of one source: /api/regions?source=NAME")
    return source
