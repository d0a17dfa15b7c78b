"""Messages about tracked objects: which of them are to be classified, and what is no message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.capture.frigate import objects
from attri.runtime.capture.frigate.objects import ObjectQueue, TrackedObject, parse_message


def message(event: str = "1.5-abc", kind: str = "new", snapshot: float = 1.0, **others: Any) -> bytes:
    after = {"id": event, "camera": "door", "label": "person", "frame_time": 9.0, "snapshot": {"frame_time": snapshot}}
    return json.dumps({"type": kind, "before": {}, "after": after | others}).encode()


def queue() -> ObjectQueue:
    return ObjectQueue(lambda camera, label: label == "person")


def taken(queue: ObjectQueue) -> list[TrackedObject]:
    found = []
    while (each := queue.take(0)) is not None:
        found.append(each)
    return found


def test_an_object_waits_once_for_each_snapshot() -> None:
    waiting = queue()
    waiting.add(message())
    waiting.add(message(kind="update"))  # it moved
    waiting.add(message("2.5-def"))
    waiting.add(message(kind="update", snapshot=2.0))
    assert [(each.id, each.snapshot, each.over) for each in taken(waiting)] == [
        ("1.5-abc", 2.0, False),  # and keeps its place
        ("2.5-def", 1.0, False),
    ]
    waiting.add(message(kind="update", snapshot=2.0, sub_label=["ann", 0.9]))  # what we set ourselves
    assert taken(waiting) == []
    waiting.add(message(kind="update", snapshot=3.0))
    assert [each.snapshot for each in taken(waiting)] == [3.0]
    waiting.add(message(kind="end", snapshot=3.0))
    assert taken(waiting) == []


def test_an_object_that_was_never_seen_is_seen_at_its_end() -> None:
    waiting = queue()
    waiting.add(message(kind="end"))
    waiting.add(message("2.5-def"))
    waiting.add(message("2.5-def", kind="end"))  # while it waits
    assert [(each.id, each.over) for each in taken(waiting)] == [("1.5-abc", True), ("2.5-def", True)]


def test_others_are_left_out() -> None:
    waiting = queue()
    waiting.add(message(label="cat"))
    waiting.add(message(false_positive=True))
    assert taken(waiting) == []


def test_a_version_without_snapshots_in_its_messages() -> None:
    assert parse_message(message(snapshot=0.0)) == TrackedObject("1.5-abc", "door", "person", False, 9.0)


def test_too_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MOST", 3)
    waiting = queue()
    for number in range(5):
        waiting.add(message(f"{number}.0-a"))
    assert [each.id for each in taken(waiting)] == ["2.0-a", "3.0-a", "4.0-a"]
    assert waiting.dropped == 2


def test_what_waits_comes_before_the_fault() -> None:
    waiting = queue()
    waiting.add(message())
    waiting.fail("lost")
    assert waiting.take(0) is not None
    with pytest.raises(ConnectionError, match="lost"):
        waiting.take(0)


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(lambda each: json.dumps(each).encode())
)
def test_what_is_no_message(payload: bytes) -> None:
    assert parse_message(payload) is None


@pytest.mark.parametrize("event", ["../x", "", "a/b", "a b", "x" * 65, 5])
def test_ids_that_are_none(event: Any) -> None:
    found = parse_message(message(event))
    assert found is None or found.id == "5"
