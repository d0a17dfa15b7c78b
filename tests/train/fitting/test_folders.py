"""Folders of runs: which are taken, passed over, locked, and pointed to."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from support.training import PROMPT, QUICK

from attri.runtime.errors import FailedError, UsageError
from attri.train.fitting import fit
from attri.train.training.run_folder import RunFolder, claim


def test_output_folders_are_never_overwritten(backbone, dataset, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"not empty and not a run \(it has thesis.txt\)"):
        fit(dataset, backbone, PROMPT, QUICK, target)
    assert fit(dataset, backbone, PROMPT, QUICK, tmp_path / "new") == tmp_path / "new"
    with pytest.raises(UsageError, match="holds a finished run"):
        fit(dataset, backbone, PROMPT, QUICK, tmp_path / "new")


def test_two_at_once_do_not_share_a_folder(backbone, dataset, tmp_path):
    with claim(None, "pocket-photos", {}) as first, claim(None, "pocket-photos", {}) as second:
        assert first.path != second.path
    with claim(tmp_path / "mine", "x", {}), pytest.raises(FailedError, match="another attri-train is at work"):
        fit(dataset, backbone, PROMPT, QUICK, tmp_path / "mine")


def test_a_numbered_folder_of_somebody_s_own_is_passed_over(tmp_path):
    own = Path("runs/pocket-photos-1/tensorboard")
    own.mkdir(parents=True)
    with claim(None, "pocket-photos", {}) as run:
        assert run.path.name == "pocket-photos-2"


@pytest.mark.parametrize("own", ["notes.txt", "results.json", "."])
def test_nothing_is_left_in_folders_that_are_passed_over(own):
    """Not even for a moment: they may be read-only, or have a lock of their own."""
    first = Path("runs/pocket-photos-1")
    if own == ".":
        first.parent.mkdir()
        first.write_text("a file")
    else:
        first.mkdir(parents=True)
        (first / own).write_text("{}")
        before = first.stat().st_mtime_ns
    with claim(None, "pocket-photos", {}) as run:
        assert run.path.name == "pocket-photos-2"
    assert own == "." or (first.stat().st_mtime_ns, list(first.iterdir())) == (before, [first / own])
    assert not list(run.path.iterdir())


def test_a_damaged_state_of_another_run_is_left_without_a_lock():
    state = Path("runs/pocket-photos-1/state.safetensors")
    state.parent.mkdir(parents=True)
    state.write_bytes(b"junk")
    with claim(None, "pocket-photos", {}):
        assert list(state.parent.iterdir()) == [state]


def test_a_lock_that_is_removed_while_another_waits_for_it_lets_one_in(monkeypatch):
    """A stops and removes its lock after B opened it; B must not hold the nameless file while C takes a new one."""
    flock, first = fcntl.flock, claim(Path("mine"), "x", {})
    first.__enter__()

    def late(lock, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(None, None, None)
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with claim(Path("mine"), "x", {}), pytest.raises(FailedError, match="another attri-train is at work in mine"):
        claim(Path("mine"), "x", {}).__enter__()


def no_links(*arguments):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("why", ["a folder", "a file in the place of runs", "no symlinks"])
def test_a_finished_run_that_latest_cannot_point_to_is_named_once(tmp_path, caplog, monkeypatch, why):
    if why == "a folder":
        Path("runs/latest/mine").mkdir(parents=True)
    elif why == "no symlinks":
        monkeypatch.setattr(Path, "symlink_to", no_links)
    else:
        Path("runs").write_text("")
    RunFolder(tmp_path / "mine", {}).point_latest()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.text.endswith(f": name it, {tmp_path / 'mine'}\n")
    assert not list(Path().glob("runs/.latest*"))


@pytest.mark.parametrize("content", [b"", b"junk" * 100], ids=["empty", "damaged"])
def test_a_damaged_state_is_passed_over_and_an_output_with_one_is_named(content, caplog):
    state = Path("runs/pocket-photos-1/state.safetensors")
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    with claim(None, "pocket-photos", {}) as run:
        assert run.path.name == "pocket-photos-2"
    assert f"{state} is not a readable attri file" in caplog.text
    with pytest.raises(FailedError, match=f"{state} is damaged: remove {state.parent}, or choose another `output`"):
        claim(state.parent, "x", {}).__enter__()
