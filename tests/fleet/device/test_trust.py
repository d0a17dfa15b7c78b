"""Attacks on what a device trusts: each is noticed, changes nothing, and the right repository works after it."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.fleet import (
    SMALL,
    StaticServer,
    copy_tree,
    make_repository,
    open_repository,
    pull_to,
    push_files,
    root_of,
)

from attri.fleet.device.store import Store
from attri.fleet.repository.keys import Keys
from attri.fleet.repository.repository import Repository
from attri.fleet.repository.roles import OWNERS, Owner
from attri.runtime.errors import FailedError, TrustError, UsageError

NEW = {**SMALL, "prompt.attri": b"second"}


def flip(file: Path, at: int = -40) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda file: file.stat().st_mtime_ns)


@pytest.mark.parametrize(
    "pattern",
    [
        "metadata/timestamp.json",
        "metadata/*.snapshot.json",
        "metadata/*.targets.json",
        "targets/channels/*.stable.json",
    ],
)
@pytest.mark.parametrize("at", [5, 200, -40])
def test_a_flipped_byte_is_noticed(repository: Repository, tmp_path: Path, pattern: str, at: int) -> None:
    broken = copy_tree(repository.folder, tmp_path / "broken")
    flip(newest(broken, pattern), at)
    with pytest.raises((TrustError, FailedError)) as error:  # a name that is broken is a file that is missing
        pull_to(tmp_path / "store", broken, root_of(repository.folder))
    assert Store(tmp_path / "store").state.update is None
    assert "\n" not in str(error.value)
    assert pull_to(tmp_path / "store", repository.folder) is not None


def test_a_flipped_root_is_none(repository: Repository, tmp_path: Path) -> None:
    flip(root_of(repository.folder))
    with pytest.raises(TrustError):
        pull_to(tmp_path / "store", repository.folder)


def test_an_older_repository_is_refused(repository: Repository, tmp_path: Path) -> None:
    older = copy_tree(repository.folder, tmp_path / "older")
    push_files(repository, NEW)
    pull_to(tmp_path / "store", repository.folder)
    with pytest.raises(TrustError, match="version"):
        pull_to(tmp_path / "store", older)
    # Without what the framework remembers, as after a fault of the disk, the device's own state does.
    shutil.rmtree(tmp_path / "store" / "trust")
    with pytest.raises(TrustError, match="sequence 1, an older one than 2"):
        pull_to(tmp_path / "store", older)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_an_expired_signature_says_what_to_do(tmp_path: Path, role: str) -> None:
    expired = make_repository(tmp_path / "repo", days={role: -1})
    push_files(expired)
    with pytest.raises(TrustError, match=r"out of date.*refresh.*clock"):
        pull_to(tmp_path / "store", expired.folder)


def set_clock(monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    """A clock that is wrong, where the framework looks at it."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(days=365 * years)

    monkeypatch.setattr(datetime, "datetime", Clock)


def test_a_clock_that_is_years_ahead_stops_updates_and_nothing_else(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        set_clock(patch, 30)
        with pytest.raises(TrustError, match="or the clock of this machine is wrong"):
            pull_to(tmp_path / "store", repository.folder)
    assert pull_to(tmp_path / "store", repository.folder) is not None


def test_a_clock_that_is_years_behind_still_lets_nothing_older_in(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = copy_tree(repository.folder, tmp_path / "older")
    push_files(repository, NEW)
    set_clock(monkeypatch, -30)
    assert pull_to(tmp_path / "store", repository.folder) is not None
    with pytest.raises(TrustError, match="version"):
        pull_to(tmp_path / "store", older)


def test_a_refreshed_repository_is_taken_with_the_online_key_alone(tmp_path: Path) -> None:
    push_files(make_repository(tmp_path / "repo", days={"timestamp": -1, "snapshot": -1}))
    for key in (tmp_path / "keys").iterdir():
        if not key.name.startswith("online"):
            key.unlink()
    open_repository(tmp_path / "repo").metadata.renew()
    assert pull_to(tmp_path / "store", tmp_path / "repo") is not None


def test_the_keys_of_somebody_else_are_refused(repository: Repository, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "other" / "repo")
    push_files(other, NEW)
    with pytest.raises(TrustError):
        pull_to(tmp_path / "store", other.folder, root_of(repository.folder))


def test_another_root_is_not_taken_silently(repository: Repository, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "other" / "repo")
    pull_to(tmp_path / "store", repository.folder)
    with pytest.raises(UsageError, match="trusts another root"):
        pull_to(tmp_path / "store", repository.folder, root_of(other.folder))
    with pytest.raises(UsageError, match="is missing"):
        pull_to(tmp_path / "new", str(repository.folder))


@pytest.mark.parametrize("owner", OWNERS)
def test_rotated_keys_are_followed_and_the_old_ones_count_no_more(
    repository: Repository, tmp_path: Path, owner: Owner
) -> None:
    pull_to(tmp_path / "store", repository.folder)
    stolen = copy_tree(repository.folder.with_name("keys"), tmp_path / "stolen" / "keys")
    before = copy_tree(repository.folder, tmp_path / "before" / "repo")
    keys = Keys(repository.folder.with_name("keys"), lambda: "secret")
    repository.metadata.rotate(owner, [keys.create(owner)], 1)
    push_files(repository, NEW)
    release = pull_to(tmp_path / "store", repository.folder)
    assert release is not None
    assert release.serial == 2
    # With all old keys, of which one is worth nothing now, somebody offers more.
    forged = open_repository(before, stolen)
    new = Keys(stolen, lambda: "secret")
    for number in range(4):
        if owner == "root":
            forged.metadata.rotate("online", [new.create("online")], 1)
        push_files(forged, {**SMALL, "prompt.attri": f"evil {number}".encode()})
    shutil.copy(repository.folder / "metadata" / "2.root.json", before / "metadata")
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        pull_to(tmp_path / "store", before)


def test_a_threshold_takes_that_many_keys(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", threshold=2)
    push_files(repository)
    assert pull_to(tmp_path / "store", repository.folder) is not None
    first = next((tmp_path / "keys").glob("root-*.pem"))
    (tmp_path / "safe").mkdir()
    first.rename(tmp_path / "safe" / first.name)
    keys = Keys(tmp_path / "keys", lambda: "secret")
    with pytest.raises(UsageError, match="2 of the keys of root, 1 here"):
        open_repository(tmp_path / "repo").metadata.rotate("online", [keys.create("online")], 1)
    both = open_repository(tmp_path / "repo", tmp_path / "keys", tmp_path / "safe")
    both.metadata.rotate("online", [keys.create("online")], 1)
    push_files(both, NEW)
    release = pull_to(tmp_path / "store", repository.folder)
    assert release is not None
    assert release.serial == 2


@pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json", "targets.json", "stable.json", "2.root.json"])
def test_endless_metadata_is_cut_off(server: StaticServer, repository: Repository, tmp_path: Path, part: str) -> None:
    if part == "2.root.json":
        shutil.copy(root_of(repository.folder), repository.folder / "metadata" / part)
    server.endless = part
    with pytest.raises(TrustError, match="not to be trusted"):
        pull_to(tmp_path / "store", server.url, root_of(repository.folder))
    assert sum(file.stat().st_size for file in (tmp_path / "store").rglob("*") if file.is_file()) < 1 << 16


def _empty(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize("fault", [shutil.rmtree, _empty], ids=["gone", "empty"])
def test_what_a_power_cut_leaves_of_the_verified_metadata_does_no_harm(
    repository: Repository, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    pull_to(tmp_path / "store", repository.folder)
    push_files(repository, NEW)
    fault(tmp_path / "store" / "trust")
    release = pull_to(tmp_path / "store", repository.folder)
    assert release is not None
    assert release.serial == 2


def test_a_channel_that_is_not_there_is_named(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no channel beta"):
        pull_to(tmp_path / "store", repository.folder, channel="beta")


def test_a_repository_that_is_not_there_is_a_fault_that_may_pass(repository: Repository, tmp_path: Path) -> None:
    root = root_of(repository.folder)
    for where in (str(tmp_path / "nowhere"), "http://127.0.0.1:9"):
        with pytest.raises(FailedError) as error:
            pull_to(tmp_path / "store", where, root)
        assert error.value.exit_code == 1
    with pytest.raises(UsageError, match="http://, https://, or in a folder"):
        pull_to(tmp_path / "store", "ftp://host/repo", root)
