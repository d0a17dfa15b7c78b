"""The preview's requests about the learned prompt, over real sockets."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.random_prompt import make_prompt
from support.results import FakeControl

from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.web.prompts import PromptRequests
from attri.runtime.web.server import PreviewServer

TOKEN = "0123456789abcdef"
OTHER = make_prompt(entries=3, labels=["scratch", "dent", "fine"], threshold=0.5)


class Client:
    def __init__(self, control: FakeControl) -> None:
        self.control = control
        self.preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)

    def __call__(self, method: str, query: str = "", body: bytes | None = None, token: str = TOKEN) -> tuple[int, Any]:
        """Of /api/prompt and what is appended to it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.preview.port, timeout=10)
        try:
            connection.request(method, f"/api/prompt{query}", body, {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(FakeControl("camera0", "b", tasks=("defects", "fill")))
    yield client
    client.preview.close()


def test_which_prompt_is_in_use(client: Client) -> None:
    first = make_prompt()
    assert client("GET") == (
        200,
        {
            "digest": first.digest,
            "created": first.facts.created,
            "selection": "nearest",
            "entries": first.entries,
            "labels": 2,
            "template": "a photo of a {}.",
            "threshold": None,
        },
    )


def test_a_prompt_that_is_sent_is_used_where_it_is_meant(client: Client) -> None:
    status, said = client("PUT", "?source=b&task=fill", OTHER.to_bytes())
    assert (status, said["digest"], said["labels"]) == (200, OTHER.digest, 3)
    in_use = {key: prompt.digest for key, prompt in client.control.prompt.items()}
    before = make_prompt().digest
    assert in_use == {"camera0 defects": before, "camera0 fill": before, "b defects": before, "b fill": OTHER.digest}
    assert client("GET")[0] == 409
    assert client("GET", "?task=defects")[0] == 200
    assert client("PUT", "", OTHER.to_bytes())[0] == 200
    assert {prompt.digest for prompt in client.control.prompt.values()} == {OTHER.digest}


@pytest.mark.parametrize(
    ("query", "body", "status", "message"),
    [
        ("", b"", 400, "is no prompt file of attri"),
        ("", OTHER.to_bytes()[:-1], 400, "is no prompt file of attri"),
        ("", OTHER.to_bytes()[:-1] + b"x", 400, "is not the prompt that was written"),
        ("", make_prompt(base={"model": "another"}).to_bytes(), 400, "made for another bundle"),
        ("?source=nobody", OTHER.to_bytes(), 400, "there is no source nobody"),
        ("?task=nothing", OTHER.to_bytes(), 400, "there is no task nothing"),
    ],
    ids=["empty", "cut short", "damaged", "of another bundle", "no source", "no task"],
)
def test_what_cannot_be_used_changes_nothing(
    client: Client, caplog: pytest.LogCaptureFixture, query: str, body: bytes, status: int, message: str
) -> None:
    caplog.set_level(logging.WARNING, "attri")
    before = dict(client.control.prompt)
    assert (client("PUT", query, body)[0], client("PUT", query, body)[1]["error"].count("\n")) == (status, 0)
    assert message in client("PUT", query, body)[1]["error"]
    assert client.control.prompt == before
    assert "the prompt from before stays" in caplog.text


def test_a_prompt_that_was_sent_can_be_written_to_its_file(client: Client) -> None:
    where = "/file?source=b&task=fill"
    origin = {"file": "b fill.attri", "edited": False, "sources": ["b fill"]}
    assert client("GET", where) == (200, origin)
    client("PUT", "?source=b&task=fill", OTHER.to_bytes())
    assert client("GET", where) == (200, origin | {"edited": True})
    assert client("GET", "/file")[1]["edited"]
    assert not client("GET", "/file?task=defects")[1]["edited"]
    assert client("PUT", where) == (200, origin)
    assert client.control.written_prompt["b fill"].digest == OTHER.digest
    assert client("GET", "/file?task=nothing") == (404, {"error": "there is no task nothing"})
    assert client("PUT", "/file?task=nothing") == (409, {"error": "there is no task nothing"})


def test_a_prompt_needs_the_token(client: Client) -> None:
    assert client("PUT", "", OTHER.to_bytes(), token="guess")[0] == 401
    assert client("PUT", "/file", token="guess")[0] == 401
    assert OTHER not in client.control.prompt.values()


def test_a_prompt_has_a_largest_size(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptRequests, "limit", 1 << 20)
    assert client("PUT", "", bytes((1 << 20) + 1)) == (413, {"error": "the prompt is larger than 1 MB"})


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Client]:
    client = Client(FakeControl("camera0"))
    yield client
    client.preview.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, len(OTHER.to_bytes()) - 1), byte=st.integers(0, 255))
def test_no_damage_breaks_it(fuzzed: Client, place: int, byte: int) -> None:
    data = bytearray(OTHER.to_bytes())
    data[place] = byte
    status, said = fuzzed("PUT", "", bytes(data))
    assert status == (200 if bytes(data) == OTHER.to_bytes() else 400), said
