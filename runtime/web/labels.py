"""Requests about the labels, /api/labels: as text, in the form of a labels file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.errors import LabelsError
from attri.runtime.web.edits import FileEditRequests
from attri.runtime.web.responses import json_response

if TYPE_CHECKING:
    from starlette.responses import Response


class LabelRequests(FileEditRequests):
    """Handlers of /api/labels."""

    path, about, limit = "/api/labels", "the labels are", 1 << 20

    def read(self, source: str | None, task: str | None) -> Response:
        """The labels, as a labels file."""
        from starlette.responses import PlainTextResponse

        if self._differ(source, task):
            what = "sources" if source is None else "tasks"
            return json_response({"error": f"the {what} have different labels: name one"}, 409)
        return PlainTextResponse(self.control.labels_text(source, task).encode(errors="replace"))

    def use(self, data: bytes, source: str | None, task: str | None) -> None:
        """Use a labels file."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise LabelsError(f"the labels are not UTF-8 at byte {error.start}") from error
        self.control.set_labels(text, source, task)

    def origin(self, source: str | None, task: str | None) -> FileOrigin:
        """Which file they come from."""
        return self.control.labels_origin(source, task)

    def write(self, source: str | None, task: str | None) -> None:
        """Write them into that file."""
        self.control.write_labels(source, task)

    def _differ(self, source: str | None, task: str | None) -> bool:
        keys = [key for each in self.control.health() for key in each.keys]
        meant = [key for key in keys if source in (None, key.origin) and task in (None, key.task)]
        return len({tuple(self.control.labels(*key)) for key in meant}) > 1
