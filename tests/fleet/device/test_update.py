"""An update from pull to committed and back: what is fetched, kept, refused and removed, and faults at every step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fleet import SMALL, StaticServer, content, pull_to, push_files, root_of, take_over

from attri.fleet.channel import Channel
from attri.fleet.device.store import Store, open_store
from attri.fleet.device.update import activate, rollback
from attri.fleet.repository.repository import Repository
from attri.runtime.bundle import SCHEMA
from attri.runtime.errors import FailedError, RefusedError, UsageError

SUPPORT = Path(__file__).parents[2] / "support"
NEW = {**SMALL, "prompt.attri": b"second"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_device_fetches_a_release_once_and_a_later_one_only_where_it_differs(
    server: StaticServer, repository: Repository, store: Path
) -> None:
    root = root_of(repository.folder)
    first = pull_to(store, server.url, root)
    assert first is not None
    assert len(server.files) == len(SMALL)
    take_over(store)
    assert content(store / "current") == SMALL
    server.paths.clear()
    assert pull_to(store, server.url) is None
    assert server.paths == ["/metadata/2.root.json", "/metadata/timestamp.json"]  # all that asking costs
    server.paths.clear()
    second = push_files(repository, NEW, kind="prompt")
    pull_to(store, server.url)
    assert server.files == [f"/targets/files/{second.files['prompt.attri'].sha256}"]
    take_over(store)
    assert content(store / "current") == NEW
    assert Store(store).state.previous == first


def test_a_pull_can_be_repeated_and_one_that_broke_off_goes_on(
    server: StaticServer, repository: Repository, store: Path
) -> None:
    for _ in range(2):
        assert pull_to(store, server.url, root_of(repository.folder)) is not None
    assert len(server.files) == len(SMALL)
    push_files(repository, {**SMALL, "vision.onnx": b"other" * 1000})
    server.cut, server.ranges = 2000, False
    with pytest.raises(FailedError):
        pull_to(store, server.url)
    server.cut, server.ranges = 1 << 40, True
    server.paths.clear()
    assert pull_to(store, server.url) is not None
    assert len(server.files) == 1


def test_a_folder_is_as_good_as_a_server(repository: Repository, store: Path) -> None:
    assert pull_to(store, repository.folder) is not None
    take_over(store)
    assert content(store / "current") == SMALL


def test_only_current_previous_and_candidate_stay(repository: Repository, store: Path) -> None:
    for number in range(5):
        push_files(repository, {**SMALL, "vision.onnx": bytes([number]) * 1000})
        pull_to(store, repository.folder)
        take_over(store)
    assert len(list((store / "releases").iterdir())) == 2
    assert len(list((store / "files").iterdir())) == len(SMALL) + 1
    assert list((store / "partial").iterdir()) == []


def test_a_release_that_was_taken_back_before_it_ran_is_removed(repository: Repository, store: Path) -> None:
    pull_to(store, repository.folder)
    take_over(store)
    push_files(repository, NEW)
    pull_to(store, repository.folder)
    repository.change("stable", Channel.revoke)
    assert pull_to(store, repository.folder) is None
    assert Store(store).state.candidate is None
    assert len(list((store / "releases").iterdir())) == 1


def test_a_release_that_was_revoked_gives_way_to_the_one_before_without_a_download(
    server: StaticServer, repository: Repository, store: Path
) -> None:
    pull_to(store, server.url, root_of(repository.folder))
    take_over(store)
    push_files(repository, NEW)
    pull_to(store, server.url)
    take_over(store)
    repository.change("stable", Channel.revoke)
    server.paths.clear()
    pull_to(store, server.url)
    take_over(store)
    assert server.files == []
    assert content(store / "current") == SMALL
    assert Store(store).state.previous is None  # nobody is to go back to what was revoked


def test_rollback_goes_back_and_the_release_is_not_tried_again(repository: Repository, store: Path) -> None:
    pull_to(store, repository.folder)
    take_over(store)
    with open_store(store) as opened, pytest.raises(UsageError, match="no release to go back to"):
        rollback(opened, "why")
    push_files(repository, NEW)
    pull_to(store, repository.folder)
    take_over(store)
    with open_store(store) as opened:
        rollback(opened, "it sees ghosts")
    assert content(store / "current") == SMALL
    with pytest.raises(RefusedError, match="it sees ghosts"):
        pull_to(store, repository.folder)
    push_files(repository, {**SMALL, "prompt.attri": b"third"})
    assert pull_to(store, repository.folder) is not None


def test_a_file_that_somebody_changed_in_a_release_is_not_gone_back_to(repository: Repository, store: Path) -> None:
    """As `attri-run --serve` does, where a person keeps a prompt that was sent."""
    for files in (SMALL, NEW):
        push_files(repository, files)
        pull_to(store, repository.folder)
        take_over(store)
    (before,) = [each for each in (store / "releases").iterdir() if content(each) == SMALL]
    (before / "prompt.attri").unlink()
    (before / "prompt.attri").write_bytes(b"somebody's")
    repository.change("stable", Channel.revoke)
    pull_to(store, repository.folder)
    take_over(store)
    assert content(store / "current") == SMALL


def test_nothing_is_activated_that_was_not_checked(repository: Repository, store: Path) -> None:
    with open_store(store) as opened, pytest.raises(UsageError, match="pull and verify"):
        activate(opened)
    pull_to(store, repository.folder)
    with open_store(store) as opened, pytest.raises(UsageError, match="pull and verify"):
        activate(opened)
    assert not (store / "current").exists()


def test_a_bundle_of_a_newer_attri_is_refused_before_it_is_fetched(
    server: StaticServer, repository: Repository, store: Path
) -> None:
    push_files(repository, NEW, schema=SCHEMA + 1)
    with pytest.raises(RefusedError, match="update attri on this machine"):
        pull_to(store, server.url, root_of(repository.folder))
    assert server.files == []


def test_the_disk_is_bounded(server: StaticServer, repository: Repository, store: Path) -> None:
    root = root_of(repository.folder)
    with pytest.raises(RefusedError, match="the bound is"):
        pull_to(store, server.url, root, most=1000)
    assert server.files == []
    assert pull_to(store, server.url, root, most=10_000) is not None
    take_over(store)
    push_files(repository, {**SMALL, "vision.onnx": b"other" * 1000})
    with pytest.raises(RefusedError, match="the bound is"):
        pull_to(store, server.url, most=10_000)  # with the one that runs


def test_too_little_room_is_said_before_anything_is_fetched(
    server: StaticServer, repository: Repository, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attri.fleet.device.update.RESERVE", 1 << 60)
    with pytest.raises(FailedError, match="make room"):
        pull_to(store, server.url, root_of(repository.folder))
    assert server.files == []


def test_a_second_process_is_kept_out(repository: Repository, store: Path) -> None:
    with open_store(store), pytest.raises(FailedError, match="another attri-bundle"):
        pull_to(store, repository.folder)


def test_a_damaged_state_is_named(repository: Repository, store: Path) -> None:
    pull_to(store, repository.folder)
    (store / "state.json").write_text("{")
    with pytest.raises(FailedError, match=r"state.json is damaged.*remove it"):
        pull_to(store, repository.folder)
    (store / "state.json").unlink()
    assert pull_to(store, repository.folder) is not None


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_fault_at_any_step_leaves_a_whole_release_and_the_next_update_commits(
    repository: Repository, store: Path, kind: str
) -> None:
    pull_to(store, repository.folder)
    take_over(store)
    push_files(repository, {**NEW, "text.onnx": b"text" * 100})
    command = [sys.executable, str(SUPPORT / "faults.py"), kind, str(repository.folder), str(store)]
    path = os.pathsep.join([str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # steps, or the faults were not where the disk is written
