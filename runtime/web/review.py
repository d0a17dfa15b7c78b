"""Requests about collected images: look at them and say what they are.

| request               | response |
|-----------------------|----------|
| GET /api/review       | images of ?task= or the first task, newest first, and what there is to choose from |
| PUT /api/review       | {"answers": {NAME: LABEL}, "forget": [NAME]} is kept; null is none of the labels |
| GET /api/review/image | the JPEG of ?name= as it lies in the folder |

?show= is open (no label yet), labelled or all; ?said= is what attri decided for, "" being none of the labels;
?reason= is why it was collected; ?before= is the name of the last image of the page before.

An answer is a file beside the image. Nothing else is written, and no image is ever deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attri.runtime.collection.folder import Collection, checked_label
from attri.runtime.collection.item import Item
from attri.runtime.deliver.sink import PipelineControl
from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.labels import parse_labels
from attri.runtime.web.responses import json_response, read_body, refused
from attri.runtime.web.views import plain_text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_PAGE = 48  # images of one answer
MAX_BYTES = 1 << 20  # bytes of a request


@dataclass(frozen=True)
class Edit:
    """What a person says.

    Attributes:
        answers: Labels by the images' names; None is none of the labels.
        forget: Names of images whose answers are to be forgotten.
    """

    answers: dict[str, str | None]
    forget: list[str]

    @classmethod
    def parse(cls, data: bytes) -> Edit:
        """Read the body of a request.

        Raises:
            UsageError: It is not what the page sends.
        """
        try:
            values = json.loads(data)
            answers, forget = dict(values.get("answers", {})), list(values.get("forget", []))
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"these are no answers: {error}") from error
        if not all(isinstance(name, str) for name in forget):
            raise UsageError("these are no answers: names are text")
        return cls({name: checked_label(label) for name, label in answers.items()}, forget)


class ReviewRequests:
    """Handlers of /api/review.

    Args:
        control: The pipeline, for the labels to choose from.
        files: The images; None where nothing is collected.
        editable: Whether answers can be given at all.
    """

    def __init__(self, control: PipelineControl, files: Collection | None, editable: bool) -> None:
        self._control, self._files, self._editable = control, files, editable
        self._items: dict[str, Item] = {}  # those that were read: a record never changes

    def routes(self) -> list[Route]:
        """Starlette's routes to the handlers. It runs those that are no coroutines in threads."""
        from starlette.routing import Route

        return [
            Route("/api/review", self._get, methods=["GET"]),
            Route("/api/review", self._put, methods=["PUT"]),
            Route("/api/review/image", self._get_image, methods=["GET"]),
        ]

    def _get(self, request: Request) -> Response:
        if self._files is None:
            return json_response({"error": "nothing is collected: start attri-run with --collect DIR"}, 404)
        asked = request.query_params
        try:
            content = self._files.content()
        except OSError as error:
            return _failed(error)
        items = self._read(reversed(content.names))
        tasks = sorted({item.task or "" for item in items})
        task = asked.get("task", tasks[0] if tasks else "")
        items = [item for item in items if (item.task or "") == task]
        said = {label: plain_text(label or "") for label in dict.fromkeys(item.label for item in items)}
        wanted = [
            item
            for item in items
            if asked.get("show", "open") in ("all", "labelled" if item.name in content.answered else "open")
            and asked.get("said", said[item.label]) == said[item.label]
            and asked.get("reason", item.reasons[0]) in item.reasons
            and item.name < asked.get("before", "~")  # behind all names, which begin with digits
        ]
        page = wanted[:_PAGE]
        return json_response(
            {
                "images": [self._image(item) for item in page],
                "more": len(wanted) - len(page),
                "count": len(items),
                "labelled": sum(item.name in content.answered for item in items),
                "task": task,
                "tasks": tasks,
                "labels": self._labels(task, items),
                "said": list(said.values()),
                "reasons": sorted({reason for item in items for reason in item.reasons}),
                "editable": self._editable,
            }
        )

    async def _put(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        data = await read_body(request, MAX_BYTES)
        if data is None:
            return json_response({"error": f"the answers are larger than {MAX_BYTES >> 20} MB"}, 413)
        return await run_in_threadpool(self._answer, data)

    def _answer(self, data: bytes) -> Response:
        try:
            edit = Edit.parse(data)
        except UsageError as error:
            return refused(error, 400)
        names = [*edit.answers, *edit.forget]
        if self._files is None or (gone := [name for name in names if not self._files.has(name)]):
            there = "nothing is collected" if self._files is None else f"there is no image {gone[0]:.100}"
            return json_response({"error": plain_text(there)}, 404)
        try:
            self._files.set_answers(edit.answers)
            for name in edit.forget:
                self._files.remove_answer(name)
        except OSError as error:
            return _failed(error)
        return json_response({"answers": {name: self._answer_json(name) for name in names}})

    def _get_image(self, request: Request) -> Response:
        from starlette.responses import Response

        name = request.query_params.get("name", "")
        try:
            if self._files is not None and self._files.has(name):
                return Response(self._files.image(name).read_bytes(), media_type="image/jpeg")
        except OSError:  # taken away meanwhile
            pass
        return json_response({"error": "there is no such image"}, 404)

    def _read(self, names: Iterable[str]) -> list[Item]:
        """The records of these images, without those that cannot be read."""
        assert self._files is not None
        before, found = self._items, {}
        for name in names:
            if name in before:
                found[name] = before[name]
            elif (item := self._files.item(name)) is not None:
                found[name] = replace(item, feature=None)  # of thousands it would take much memory
        self._items = found
        return list(found.values())

    def _image(self, item: Item) -> dict[str, Any]:
        return {
            "name": item.name,
            "source": plain_text(item.source),
            "collected": item.collected,
            "reasons": item.reasons,
            "label": None if item.label is None else plain_text(item.label),
            "score": round(item.score, 4),
            "size": item.size,
            "answer": self._answer_json(item.name),
        }

    def _answer_json(self, name: str) -> dict[str, Any] | None:
        assert self._files is not None
        answer = self._files.answer(name)
        return None if answer is None else {"label": answer.label}

    def _labels(self, task: str, items: Iterable[Item]) -> list[str]:
        """The labels to choose from: those in use, or those that were in use when there is no such task any more."""
        try:
            lines = self._control.labels(None, task or None)
            return [label.text for label in parse_labels("\n".join(lines), "the labels in use")]
        except LabelsError:
            return list(dict.fromkeys(label for item in items for label, _ in item.top))


def _failed(error: OSError) -> Response:
    return json_response({"error": plain_text(f"{error.filename}: {error.strerror}")}, 500)
