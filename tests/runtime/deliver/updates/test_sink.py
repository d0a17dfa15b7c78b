"""What attri-run counts and saves for its updates, and what others are told of these."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.peers import HookServer, wait_for
from support.results import FakeControl, make_result

from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.spool import Spool
from attri.runtime.deliver.updates import sink as module
from attri.runtime.deliver.updates.exchange import Exchange, LabelCounts, settings_of
from attri.runtime.deliver.updates.sink import UpdatesSink
from attri.runtime.deliver.webhook import WebhookSink
from attri.runtime.errors import SinkError

FIRST = {"runs": "1-a", "update": {"release": "1-a", "state": "committed", "time": 1.0}}
SETTINGS = FakeControl("camera0", "camera1", tasks=("defects", "fill")).settings
TRYING = {"runs": "2-b", "update": {"release": "2-b", "state": "trying", "time": 2.0}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    exchange = Exchange(tmp_path / "live")
    exchange.tell_update(FIRST)
    return exchange


@pytest.fixture
def sink(exchange: Exchange) -> Iterator[UpdatesSink]:
    sink = UpdatesSink(exchange, SETTINGS)
    yield sink
    sink.close()


def result(label: str | None = "bird", prompt: str = "p1", **others: Any) -> FrameResult:
    made = make_result(label=label, **others)
    return dataclasses.replace(made, prediction=dataclasses.replace(made.prediction, prompt=prompt))


def write(sink: UpdatesSink, results: Sequence[FrameResult]) -> None:
    for each in results:
        sink.write(each)


def test_labels_are_counted_by_prompt_and_apart_from_the_release_before(exchange: Exchange, sink: UpdatesSink) -> None:
    write(sink, [result(), result(), result(None), result(unchanged=True)])
    exchange.tell_update(TRYING)
    wait_for(lambda: exchange.counts().runs == "2-b", 60)
    assert exchange.counts().before == {"p1": LabelCounts(3, 0, {"bird": 2, "": 1})}
    odd = result("red apple", "p2")
    write(
        sink,
        [result(prompt="p2"), dataclasses.replace(odd, prediction=dataclasses.replace(odd.prediction, score=math.nan))],
    )
    wait_for(lambda: exchange.counts().now, 60)
    wait_for(lambda: exchange.counts().now["p2"].results == 2, 60)
    assert exchange.counts().now == {"p2": LabelCounts(2, 1, {"bird": 1, "red apple": 1})}


def test_counts_go_on_where_it_is_started_again(exchange: Exchange) -> None:
    for _ in range(2):
        sink = UpdatesSink(exchange, SETTINGS)
        sink.write(result())
        sink.close()
    assert exchange.counts().now["p1"].results == 2
    exchange.tell_update(TRYING)  # other graphs: it is stopped, and started with them
    sink = UpdatesSink(exchange, SETTINGS)
    sink.close()
    assert exchange.counts().before["p1"].results == 2
    assert exchange.counts().now == {}


def test_counts_that_cannot_be_read_begin_anew(exchange: Exchange) -> None:
    for text in ("{", '{"runs": "1-a", "now": {"p": {"other": 1}}, "before": {}, "state": null}', "[]"):
        (exchange.folder / "counts.json").write_text(text)
        assert exchange.counts().now == {}


def test_an_hour_is_half_forgotten(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange.tell_update(TRYING)  # somebody waits for counts
    sink = UpdatesSink(exchange, SETTINGS)
    write(sink, [result()] * 8)
    wait_for(lambda: exchange.counts().now, 60)
    monkeypatch.setattr(module, "FORGET", 0.0)
    wait_for(lambda: exchange.counts().now["p1"].results < 1, 60)
    sink.close()
    found = exchange.counts().now["p1"]
    assert found.labels["bird"] == found.results


def test_frames_are_saved_while_they_are_asked_for(
    exchange: Exchange, sink: UpdatesSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPACING", 0.0)
    large = np.zeros((1500, 2000, 3), np.uint8)
    large[:, :1000] = 200
    sink.write(result(image=large))
    assert exchange.saved_frames() == []
    exchange.ask_for_frames(3)
    wait_for(lambda: sink.write(result(image=large)) or len(exchange.saved_frames()) == 3, 60)
    write(sink, [result(image=large)] * 3)
    assert [file.name for file in exchange.saved_frames()] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    with Image.open(exchange.saved_frames()[0]) as image:
        assert image.size == (1024, 768)
        assert np.asarray(image)[400, [100, 900], 0].tolist() == pytest.approx([200, 0], abs=4)
    assert settings_of(exchange.saved_frames()[0]) == tuple(SETTINGS("camera0"))  # of all its tasks
    exchange.ask_for_frames(1)  # another request
    wait_for(lambda: sink.write(result()) or exchange.saved_frames(), 60)
    exchange.withdraw()
    assert not exchange.frames.exists()
    write(sink, [result()] * 3)  # nobody asks any more


def test_neighbouring_frames_of_a_source_are_left_out(
    exchange: Exchange, sink: UpdatesSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPACING", 1e9)
    exchange.ask_for_frames(9)
    wait_for(lambda: sink.write(result("bird")) or exchange.saved_frames(), 60)
    write(sink, [result("bird"), result("bird", source="camera1"), result("bird", source="camera1")])
    write(sink, [result("bird", source="gone")])  # it was removed: nobody knows what was asked of it
    assert len(exchange.saved_frames()) == 2


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_loses_the_frame_and_says_so(
    exchange: Exchange, sink: UpdatesSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.ask_for_frames(1)
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: Path("/dev/full").write_bytes(b"x" * 100_000))
    with pytest.raises(SinkError, match="No space left"):
        wait_for(lambda: sink.write(result()), 60)


def test_a_webhook_is_told_of_each_state_once(exchange: Exchange, tmp_path: Path) -> None:
    hook = HookServer()
    webhook = WebhookSink(hook.url, "secret", lambda: Spool(tmp_path / "spool.sqlite"), 1)
    first = UpdatesSink(exchange, SETTINGS, webhook.announce)
    exchange.tell_update(TRYING)
    wait_for(lambda: len(hook.requests) == 1, 60)
    first.close()
    gone = {"runs": "1-a", "update": {"release": "2-b", "state": "rolled back", "reason": "why", "time": 3.0}}
    exchange.tell_update(gone)  # while it is away
    second = UpdatesSink(exchange, SETTINGS, webhook.announce)
    wait_for(lambda: len(hook.requests) == 2, 60)
    second.close()
    webhook.close()
    bodies = [json.loads(body) for _, body in hook.requests]
    assert [body["update"] for body in bodies] == [TRYING["update"], gone["update"]]
    assert len({body["id"] for body in bodies}) == 2


def test_the_distance_of_two_distributions() -> None:
    """Against the largest difference of the probabilities of any event, which is what it means."""
    one, other = LabelCounts(10, 0, {"a": 5, "b": 3, "": 2}), LabelCounts(4, 0, {"a": 1, "c": 3})
    names = ["a", "b", "c", ""]
    events = [[name for i, name in enumerate(names) if code >> i & 1] for code in range(16)]
    largest = max(abs(sum(one.share(name) - other.share(name) for name in event)) for event in events)
    assert one.distance(other) == pytest.approx(largest)
    assert one.distance(one) == 0
    assert one.distance(LabelCounts(1, 0, {"d": 1})) == pytest.approx(1)
