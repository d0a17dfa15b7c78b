"""The preview's requests about regions, over real sockets."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from support.preview import Client, bearer
from support.results import FakeControl

from attri.runtime.errors import UsageError

PATH = "/api/regions"


def put(client: Client, regions: object, query: str = "?source=camera0", **headers: Any) -> Any:
    return client(PATH + query, "PUT", json.dumps(regions).encode(), **(headers or bearer()))


def test_regions_are_read_replaced_and_written(client: Client) -> None:
    query = "?source=camera0"
    assert client(PATH + query).json == {"size": [64, 48], "regions": {}}
    answer = put(client, {"door": [1, 2, 3, 4]})
    assert (answer.status, answer.json["regions"]) == (200, {"door": [1, 2, 3, 4]})
    assert client(f"{PATH}/file{query}").json == {"file": "sources.toml", "edited": True, "sources": ["camera0"]}
    assert client(f"{PATH}/file{query}", "PUT", **bearer()).json["edited"] is False
    assert client(PATH + "?source=rtsp://***@host/b").json["regions"] == {}


def test_the_whole_frame_is_shown_however_small_its_regions(client: Client) -> None:
    answer = client(f"{PATH}/frame?source=camera0")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.body)).size == (64, 48)
    client.control.frame = None
    assert client(f"{PATH}/frame?source=camera0").status == 404
    assert client(f"{PATH}?source=camera0").json["size"] is None


def test_a_change_needs_the_token(client: Client) -> None:
    assert put(client, {"door": [1, 2, 3, 4]}, Authorization="Bearer wrong").status == 401
    assert client(f"{PATH}/file?source=camera0", "PUT").status == 401
    assert client.control.rois == {}


@pytest.mark.parametrize(
    ("body", "query", "status", "error"),
    [
        (b"[", "?source=camera0", 400, "the regions are not JSON"),
        (b"[1]", "?source=camera0", 400, "a JSON object by names"),
        (b'{"bad": [1, 1, 1, 1]}', "?source=camera0", 400, "bad: the region is not inside"),
        (b"{}", "?source=nowhere", 400, "there is no source nowhere"),
        (b"{}", "", 400, "regions are those of one source"),
        (b" " * (1 << 17), "?source=camera0", 413, "larger than"),
    ],
)
def test_what_cannot_be_used_says_why(client: Client, body: bytes, query: str, status: int, error: str) -> None:
    answer = client(PATH + query, "PUT", body, **bearer())
    assert answer.status == status
    assert error in answer.json["error"]
    assert client.control.rois == {}


def test_sources_that_cannot_be_changed_have_none_to_draw(open_preview: Callable[..., Client]) -> None:
    class Fixed(FakeControl):
        def regions(self, source: str) -> Any:
            raise UsageError("the sources of this attri-run cannot be changed")

    client = open_preview(Fixed("camera0"))
    for path in (PATH, f"{PATH}/frame"):
        assert client(f"{path}?source=camera0").status == 404
