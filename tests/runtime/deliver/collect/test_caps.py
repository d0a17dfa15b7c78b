"""How many images are collected at most."""

from __future__ import annotations

import pytest

from attri.runtime.deliver.collect.caps import Account, Caps, Refusal
from attri.runtime.deliver.result import ResultKey

KEY, OTHER = ResultKey("camera0"), ResultKey("camera0", "fill")
NOW, DAY, ROOM = 1_790_000_000.0, 86_400.0, 1 << 40


def account(*ages: float, key: ResultKey = KEY) -> Account:
    return Account({key: [NOW - age for age in ages]})


@pytest.mark.parametrize(
    ("ages", "refusal"),
    [
        ([], None),
        ([1, 2], None),
        ([1, 2, 3], "minute"),
        ([1, 2, 60], None),
        ([-5, 2, 3], "minute"),  # the clock was set back
        ([100, 200, 300, 400, 500, 600, 700, 800, 900], "day"),
        ([100, 200, 300, 400, 500, 600, 700, 800, DAY], None),
    ],
)
def test_caps_of_the_minute_and_the_day(ages: list[float], refusal: Refusal | None) -> None:
    """One place of four and one of ten is for the control."""
    caps = Caps(minute=4, day=10)
    assert account(*ages).refusal(caps, KEY, NOW, ROOM) == refusal
    assert account(*ages).refusal(caps, OTHER, NOW, ROOM) is None


def test_the_control_has_places_of_its_own() -> None:
    caps = Caps(minute=4, day=10)
    assert account(1, 2, 3).refusal(caps, KEY, NOW, ROOM, control=True) is None
    assert account(1, 2, 3, 4).refusal(caps, KEY, NOW, ROOM, control=True) == "minute"
    assert account(1).refusal(Caps(minute=1), KEY, NOW, ROOM) == "minute"
    assert account().refusal(Caps(minute=1), KEY, NOW, ROOM) is None  # one place is for whoever comes first


def test_caps_of_the_folder_and_the_disk() -> None:
    caps = Caps(megabytes=1, free_megabytes=2)
    full = Account(nbytes=999_000)
    assert full.refusal(caps, KEY, NOW, ROOM, nbytes=1000) is None
    assert full.refusal(caps, KEY, NOW, ROOM, nbytes=1001) == "folder"
    assert Account().refusal(caps, KEY, NOW, 2_001_000, nbytes=1000) is None
    assert Account().refusal(caps, KEY, NOW, 2_000_999, nbytes=1000) == "disk"


def test_what_is_older_than_a_day_is_forgotten() -> None:
    found = account(1, DAY - 1, DAY, 2 * DAY)
    found.add(OTHER, NOW - 2 * DAY)
    found.forget_before(NOW)
    assert found.times == {KEY: [NOW - 1, NOW - DAY + 1]}
