"""Trainings that are stopped, killed or without disk: no finished step is lost, and they end with the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from support.training import PROMPT, QUICK

from attri.runtime.errors import FailedError, UsageError
from attri.train import fitting as module
from attri.train.cli import main
from attri.train.fitting import fit
from attri.train.training.checkpoint import load_run, save_tensors
from attri.train.training.trainer import Trainer


def command_line(photos: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "attri.train.cli",
        "--data",
        str(photos),
        "--device",
        "cpu",
        "--augmentations",
        "1",
        *options,
    ]


def threads(count: int) -> dict[str, str]:
    """An environment with this many OpenMP threads, which race for additions on a single core too."""
    return os.environ | {"OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "passive"}


def here(command: list[str], count: int) -> Result:
    """That command line in this process, with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        done = CliRunner().invoke(main, command[3:])
    finally:
        torch.set_num_threads(before)
    assert done.exit_code == 0, done.stderr
    return done


def wait_for(file: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_killed_command_goes_on_and_writes_the_bytes_of_one_that_was_not(photos, tmp_path, monkeypatch):
    """Two threads, killed, and on in another process, where the machine now has one thread."""
    monkeypatch.setattr(module, "draw_figures", lambda *_: [])  # no part of this
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = command_line(photos, "--epochs", "5", "--output", str(killed))
    process = subprocess.Popen(command, env=threads(2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = killed / "state.safetensors"
    wait_for(state, process)
    process.kill()
    process.wait()
    assert state.exists()
    metrics = killed / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    again = here(command, 1)
    # The kill may fall between the checkpoint and the metrics of one epoch, which are written in this order.
    assert any(f"{killed}: going on after epoch {epoch}\n" in again.stderr for epoch in (done, done + 1))
    assert not state.exists()
    here([*command[:-1], str(whole)], 2)
    assert digest(killed / "prompt.safetensors") == digest(whole / "prompt.safetensors")
    assert json.loads((killed / "results.json").read_text())["threads"] == 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_run_goes_on_and_ends_bit_equal(backbone, dataset, monkeypatch, optimizer):
    config = dataclasses.replace(QUICK, optimizer=optimizer, lr=0.01)
    whole = load_file(fit(dataset, backbone, PROMPT, config) / "prompt.safetensors")
    step = Trainer.step

    def stop_in_epoch_2(self, rows, views):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return step(self, rows, views)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_in_epoch_2)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, backbone, PROMPT, config)
    unfinished = Path("runs/pocket-photos-2")
    assert sorted(p.name for p in unfinished.iterdir()) == ["metrics.jsonl", "state.safetensors"]
    with pytest.raises(UsageError, match="not finished: run attri-train again"):
        load_run(unfinished)
    folder = fit(dataset, backbone, PROMPT, config)
    assert folder.name == "pocket-photos-2"
    resumed = load_file(folder / "prompt.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_epoch_loses_no_step(backbone, dataset, monkeypatch, number):
    config = dataclasses.replace(QUICK, batch_size=6, average=True)  # 2 steps an epoch
    whole = fit(dataset, backbone, PROMPT, config)
    step, taken = Trainer.step, []

    def interrupted(self, rows, views):
        taken.append((self.epoch, self.steps))
        if taken[-1] == (1, 1):
            os.kill(os.getpid(), number)
        return step(self, rows, views)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, backbone, PROMPT, config)
        assert signal.getsignal(number) is before
        folder = fit(dataset, backbone, PROMPT, config)
    assert taken == [(epoch, step) for epoch in range(3) for step in range(2)]
    ours, theirs = (load_file(run / "prompt.safetensors") for run in (folder, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_long_epochs_are_saved_on_the_way(backbone, dataset, monkeypatch):
    places = []
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    save = module.RunFolder.save_state
    monkeypatch.setattr(
        module.RunFolder, "save_state", lambda self, t, p: places.append(p["steps"]) or save(self, t, p)
    )
    fit(dataset, backbone, PROMPT, dataclasses.replace(QUICK, epochs=1, batch_size=5))
    assert places == [1, 2, 0]


def stop(self, rows, views):
    """In the place of Trainer.step."""
    raise KeyboardInterrupt


def test_a_stop_before_the_first_checkpoint_leaves_a_folder_that_goes_on(backbone, dataset, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, backbone, PROMPT, QUICK, scalars=True)
    assert fit(dataset, backbone, PROMPT, QUICK, scalars=True).name == "pocket-photos-1"


def test_tensors_are_on_the_disk_before_they_get_their_name(monkeypatch, tmp_path):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("fsync") or fsync(number))
    monkeypatch.setattr(Path, "replace", lambda self, target: calls.append("replace") or replace(self, target))
    save_tensors(tmp_path / "state.safetensors", {"x": torch.zeros(1)}, {})
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_an_unfinished_run_does_not_go_on_with_other_images(backbone, dataset, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, backbone, PROMPT, QUICK, tmp_path / "mine", scalars=True)
    first, *rest = dataset.train
    for train in (rest, [*rest, first], [dataclasses.replace(first, target=1), *rest]):
        with pytest.raises(UsageError, match="holds an unfinished run with other settings or images"):
            fit(dataclasses.replace(dataset, train=train), backbone, PROMPT, QUICK, tmp_path / "mine")
    assert load_run(fit(dataset, backbone, PROMPT, QUICK, tmp_path / "mine")).train == QUICK


def test_a_disk_that_takes_no_more_keeps_the_last_checkpoint(backbone, dataset, monkeypatch, tmp_path):
    import resource

    from attri.train.training import run_folder

    whole = run_folder.save_tensors
    epochs = []

    def full_after_two(path, tensors, metadata):
        epochs.append(path)
        limit = 2000 if len(epochs) > 2 else resource.RLIM_INFINITY  # bytes that a file may have: a real failing write
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            whole(path, tensors, metadata)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_tensors", full_after_two)
        with pytest.raises(FailedError, match=r"cannot write .*state\.safetensors"):
            fit(dataset, backbone, PROMPT, QUICK, tmp_path / "mine")
    left = sorted(p.name for p in (tmp_path / "mine").iterdir())
    assert left == ["metrics.jsonl", "state.safetensors"]
    assert load_run(fit(dataset, backbone, PROMPT, QUICK, tmp_path / "mine")).train == QUICK
