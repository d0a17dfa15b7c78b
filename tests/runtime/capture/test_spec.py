"""The table of source options, and what follows from the kind of a source."""

from __future__ import annotations

import pytest

from attri.runtime.capture.spec import (
    KINDS,
    LIVE,
    SOURCE_OPTIONS,
    Choice,
    Number,
    RegionOfInterest,
    SourceOption,
    SourceSpec,
    ValueType,
    WholeNumber,
)


@pytest.mark.parametrize("option", SOURCE_OPTIONS, ids=lambda option: option.name)
def test_source_option_is_taken_by_a_kind_that_there_is(option: SourceOption) -> None:
    assert option.kinds
    assert option.kinds <= KINDS.keys()
    assert option.flag.startswith("--")
    assert option.help[-1] in ".]"


def test_live_kinds_are_kinds() -> None:
    assert KINDS.keys() >= LIVE


@pytest.mark.parametrize(
    ("type", "good", "bad"),
    [
        (WholeNumber(1), [1, 10**9], [0, 1.0, True, "1", None]),
        (WholeNumber(1, 5), [1, 5], [6]),
        (Number(0, 2), [0, 0.5, 2], [-0.1, 2.1, float("nan"), True, "1"]),
        (Choice(("raw",)), ["raw"], ["RAW", 1, ["raw"]]),
        (RegionOfInterest(), [[0, 0, 1, 1], (5, 6, 7, 8)], [[0, 0, 0, 1], [0, 0, 1], [0, -1, 1, 1], 3, "0011", None]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_type_accepts(type: ValueType, good: list[object], bad: list[object]) -> None:
    assert all(type.accepts(value) for value in good)
    assert not any(type.accepts(value) for value in bad)


@pytest.mark.parametrize(("uri", "takes"), [("rtsp://h", True), ("rtsps://h", False), ("http://h", False)])
def test_latency_is_taken_by_rtsp_alone(uri: str, takes: bool) -> None:
    assert ("latency" in SourceSpec("x", "stream", uri).options) == takes
