"""Who gets which release, what promote and revoke make of it, and documents that no device uses."""

from __future__ import annotations

import json

import pytest

from attri.fleet.channel import KEPT, Channel
from attri.fleet.release import Entry, Release
from attri.runtime.errors import TrustError, UsageError

DEVICES = [f"device-{number}" for number in range(2000)]


def release(serial: int) -> Release:
    return Release(serial, "2026-11-30T09:00:00+00:00", "bundle", 6, {"vision.onnx": Entry(serial, "0" * 64)})


def pushed(*waves: float | None) -> Channel:
    channel = Channel("stable")
    for wave in waves:
        channel = channel.push(release(channel.sequence + 1), wave)
    return channel


def serials(channel: Channel) -> list[int | None]:
    offered = (channel.offered(device) for device in DEVICES)
    return [each.serial if each else None for each in offered]


def test_all_devices_get_what_was_pushed_without_a_wave() -> None:
    assert set(serials(Channel("stable"))) == {None}
    assert set(serials(pushed(None, None))) == {2}


@pytest.mark.parametrize("wave", [0.0, 1.0, 10.0, 50.0, 100.0])
def test_a_wave_is_its_share_of_the_devices(wave: float) -> None:
    found = serials(pushed(None, wave))
    share = wave / 100 * len(DEVICES)
    assert abs(found.count(2) - share) <= 5 * (share * (1 - wave / 100)) ** 0.5  # 5 standard deviations of a draw
    assert found.count(1) == len(DEVICES) - found.count(2)


def test_a_larger_wave_has_the_devices_of_a_smaller_one_and_another_release_others() -> None:
    first = pushed(None, 10.0)
    small, large = serials(first), serials(first.promote(30.0))
    assert all(after == 2 for before, after in zip(small, large, strict=True) if before == 2)
    assert large.count(2) > small.count(2)
    assert small != serials(pushed(None, None, 10.0))


def test_promote_without_a_wave_is_for_all() -> None:
    done = pushed(None, 10.0).promote(None)
    assert set(serials(done)) == {2}
    assert done.candidate is None
    with pytest.raises(UsageError, match="no candidate"):
        done.promote(None)
    with pytest.raises(UsageError, match="has 10% already"):
        pushed(None, 10.0).promote(5.0)


def test_revoke_takes_back_the_candidate_first_and_then_goes_back_over_what_was_revoked() -> None:
    channel = pushed(None, None, 10.0).revoke()
    assert set(serials(channel)) == {2}
    assert channel.revoked == (3,)
    assert set(serials(channel.revoke())) == {1}
    nothing = channel.revoke().revoke()
    assert set(serials(nothing)) == {None}
    assert nothing.sequence == 6
    with pytest.raises(UsageError, match="offers nothing"):
        nothing.revoke()


def test_old_releases_leave_but_not_those_that_are_offered() -> None:
    channel = pushed(None)
    for _ in range(KEPT + 3):
        channel = channel.push(release(channel.sequence + 1), 1.0)
    kept = [each.serial for each in channel.releases]
    assert kept[0] == 1  # current
    assert len(kept) <= KEPT + 1
    assert channel.find(channel.candidate) is not None


def test_the_document_has_all_of_it() -> None:
    channel = pushed(None, 12.5).revoke()
    assert Channel.parse(channel.to_bytes()) == channel


@pytest.mark.parametrize(
    "name", ["..", ".", "../etc", "a/b", "/etc/passwd", "", ".hidden", "a\0b", "a\nb", "x" * 200, "a\\b"]
)
def test_a_file_outside_of_its_folder_is_never_used(name: str) -> None:
    raw = json.loads(pushed(None).to_bytes())
    raw["releases"][0]["files"] = {name: {"size": 1, "sha256": "0" * 64}}
    with pytest.raises(TrustError, match="cannot be used"):
        Channel.parse(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"releases": 3},
        {"wave": 101},
        {"wave": "NaN"},
        {"sequence": "1"},
        {"unknown": 1},
        {"releases": [{"serial": 1, "created": "", "kind": "virus", "schema": 6, "files": {}}]},
        {"releases": [{"serial": 1, "created": "", "kind": "bundle", "schema": 6, "files": {"a": {"size": -1}}}]},
        {
            "releases": [
                {"serial": 1, "created": "", "kind": "bundle", "schema": 6, "files": {"a": {"size": -1, "sha256": ""}}}
            ]
        },
    ],
)
def test_a_document_that_cannot_be_used_is_refused_whoever_signed_it(change: dict[str, object]) -> None:
    raw = json.loads(pushed(None).to_bytes()) | change
    with pytest.raises(TrustError):
        Channel.parse(json.dumps(raw).encode())


def test_no_json_is_refused() -> None:
    for data in (b"", b"\xff", b"[]", b"[" * 100_000):
        with pytest.raises(TrustError):
            Channel.parse(data)


@pytest.mark.parametrize("name", ["", "Stable", "a/b", "..", "a b"])
def test_a_channel_has_a_plain_name(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a channel"):
        Channel(name)
