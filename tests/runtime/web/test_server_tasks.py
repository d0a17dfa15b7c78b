"""The preview's server and tasks: a card, a frame and labels of each source and task."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.results import LABELS, FakeControl, make_result

from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.web.server import PreviewServer

TOKEN = "0123456789abcdef"
TASKS = ("defects", "fill")


class Client:
    def __init__(self, control: FakeControl) -> None:
        self.control = control
        self.preview = PreviewServer(control, MetricsSink(control), ("127.0.0.1", 0), TOKEN)

    def __call__(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.preview.port, timeout=10)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            data = answer.read()
            kind = answer.headers["content-type"]
            return answer.status, json.loads(data) if "json" in kind else data
        finally:
            connection.close()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(FakeControl("camera0", "b", tasks=TASKS))
    yield client
    client.preview.close()


def test_each_source_and_task_has_a_card(client: Client) -> None:
    _, before = client("/api/state")
    keys = [(source, task) for source in ("camera0", "b") for task in TASKS]
    assert [(each["source"], each["task"], each["number"]) for each in before["sources"]] == [(*key, 0) for key in keys]
    for frame in range(3):
        client.preview.write(make_result(frame=frame, task="defects", label="bird"))
    client.preview.write(make_result(task="fill", score=0.5))
    _, state = client("/api/state?source=camera0&task=fill")
    cards = {(each["source"], each["task"]): each for each in state["sources"]}
    assert [each.get("label") for each in cards.values()] == ["bird", "red apple", None, None]
    assert [each["number"] for each in cards.values()] == [3, 1, 0, 0]
    assert {each["frames"] for each in cards.values()} == {120}  # of the source
    assert state["detail"]["top"][0] == ["red apple", 0.5]
    assert client("/api/state?source=camera0")[1]["detail"] is None  # neither of its tasks
    assert client("/api/frame?source=camera0&task=fill")[0] == 200
    assert client("/api/frame?source=camera0")[0] == 404


def test_without_tasks_the_state_is_as_it_was() -> None:
    client = Client(FakeControl())
    client.preview.write(make_result())
    (card,) = client("/api/state")[1]["sources"]
    assert "task" not in card
    assert "tasks" not in card
    client.preview.close()


def test_labels_of_one_task(client: Client) -> None:
    assert client("/api/labels")[0] == 200
    path = "/api/labels?source=camera0&task=fill"
    assert client(path, "PUT", b"empty\nfull") == (200, b"empty\nfull\n")
    assert client(path) == (200, b"empty\nfull\n")
    assert client.control.lines["camera0 defects"] == list(LABELS)
    assert client.control.lines["b fill"] == list(LABELS)
    assert client("/api/labels?source=camera0") == (409, {"error": "the tasks have different labels: name one"})
    assert client("/api/labels") == (409, {"error": "the sources have different labels: name one"})
    assert client("/api/labels?source=b")[0] == 200
    assert client("/api/labels?source=camera0&task=nothing")[0] == 404
    assert client("/api/labels?source=camera0&task=nothing", "PUT", b"x")[0] == 400
    assert client("/api/labels?task=fill", "PUT", b"x")[0] == 200  # of all sources
    assert client.control.lines["b fill"] == client.control.lines["camera0 fill"] == ["x"]
    assert client.control.lines["b defects"] == list(LABELS)


def test_labels_of_one_task_are_written_to_their_file(client: Client) -> None:
    client("/api/labels?source=camera0&task=fill", "PUT", b"x")
    path = "/api/labels/file?source=camera0&task=fill"
    assert client(path)[1]["edited"]
    assert client(path, "PUT")[0] == 200
    assert client.control.written["camera0 fill"] == ["x"]
    assert client.control.written["camera0 defects"] == list(LABELS)


def test_cards_of_tasks_have_places_of_their_own() -> None:
    control = FakeControl(*(f"camera{i}" for i in range(33)), tasks=TASKS)
    client = Client(control)
    for source in control.states:
        for task in TASKS:
            client.preview.write(make_result(source, task=task))
    _, state = client("/api/state")
    assert (sum(each["card"] for each in state["sources"]), state["left_out"]) == (64, 2)
    control.states["camera0"] = "ended"
    time.sleep(1.1)  # it looks for what has ended once a second
    client.preview.write(make_result("camera32", task="defects"))
    _, state = client("/api/state")
    assert [each["number"] for each in state["sources"] if each["source"] == "camera32"] == [1, 0]
    client.preview.close()
