"""The preview's requests about sources, over real sockets; what follows for cards and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.preview import Client, bearer
from support.results import FakeControl, make_result

from attri.runtime.errors import FailedError

PATH = "/api/sources"


def put(client: Client, tables: object, **headers: Any) -> Any:
    return client(PATH, "PUT", json.dumps(tables).encode(), **(headers or bearer()))


def test_sources_are_listed_without_their_addresses(client: Client) -> None:
    assert client(PATH).json == [
        {"name": "camera0", "kind": "v4l2", "paused": False},
        {"name": "rtsp://***@host/b", "kind": "v4l2", "paused": False},
    ]


def test_sources_are_added_paused_and_removed(client: Client) -> None:
    answer = put(client, {"yard": {"uri": "rtsp://user:secret@host/yard"}, "camera0": {"paused": True}})
    assert answer.status == 200
    assert [(each["name"], each["paused"]) for each in answer.json] == [
        ("camera0", True),
        ("rtsp://***@host/b", False),
        ("yard", False),
    ]
    assert b"secret" not in answer.body
    assert client("/healthz").json["sources"]["camera0"] == "paused"
    assert [each["name"] for each in put(client, {"camera0": None}).json] == ["rtsp://***@host/b", "yard"]


def test_a_source_that_was_removed_has_no_card_and_no_series(client: Client) -> None:
    """Nor has it one again by a result that was on its way."""
    for name in ("camera0", "rtsp://***@host/b"):
        client.preview.write(make_result(name, changed=True))
        client.metrics.write(make_result(name, changed=True))
    assert len(client("/api/state").json["sources"]) == 2
    assert b'attri_score{source="camera0"}' in client("/metrics").body
    put(client, {"camera0": None})
    for _ in range(2):
        assert [each["source"] for each in client("/api/state").json["sources"]] == ["rtsp://***@host/b"]
        assert client("/api/frame?source=camera0").status == 404
        assert b"camera0" not in client("/metrics").body
        client.preview.write(make_result("camera0"))
        client.metrics.write(make_result("camera0"))
    put(client, {"camera0": {"uri": "camera0"}})
    client.preview.write(make_result("camera0"))
    assert client("/api/frame?source=camera0").status == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "are not JSON"),
        (b"\xff", 400, "are not JSON"),
        (b"[]", 400, "a JSON object by names"),
        (b"{}", 400, "a JSON object by names"),
        (b'{"nobody": null}', 400, "there is no source nobody"),
        (b" " * ((1 << 20) + 1), 413, "larger than 1 MB"),
    ],
)
def test_what_is_refused(client: Client, body: bytes, status: int, words: str) -> None:
    answer = client(PATH, "PUT", body, **bearer())
    assert answer.status == status
    assert words in answer.json["error"]
    assert list(client.control.states) == ["camera0", "rtsp://***@host/b"]


def test_who_may(client: Client, open_preview: Any) -> None:
    assert put(client, {"camera0": None}, X="y").status == 401
    assert client(f"{PATH}?source=camera0", "PUT", b'{"camera0": null}', **bearer()).status == 400
    assert open_preview(FakeControl(), host="0.0.0.0")(PATH).status == 401
    assert "camera0" in client.control.states


def test_what_fails_here_is_no_fault_of_the_request(open_preview: Any) -> None:
    class Broken(FakeControl):
        def change_sources(self, *_: object) -> None:
            raise FailedError("labels.txt cannot be read")

    assert put(open_preview(Broken()), {"a": None}).status == 500


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Client]:
    client = Client(FakeControl("camera0"))
    yield client
    client.preview.close()


_JSON = st.recursive(st.none() | st.text(), st.lists).map(lambda each: json.dumps(each).encode())


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=50) | _JSON)
def test_no_body_breaks_it(fuzzed: Client, body: bytes) -> None:
    assert fuzzed(PATH, "PUT", body, **bearer()).status == 400
