"""Training as a whole: it learns, it repeats, it goes on after a kill, and it never leaves half a run."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from attri.runtime.errors import FailedError, UsageError
from attri.train import fitting as module
from attri.train.config import TERMS, PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit, load_model, pick_device
from attri.train.model.backbone import load_backbone
from attri.train.training.checkpoint import load_run, save_tensors
from attri.train.training.progress import Progress
from attri.train.training.run_folder import RunFolder, claim
from attri.train.training.trainer import Trainer

QUICK = TrainConfig(epochs=3, augmentations=2, shots=2, batch_size=16)
PROMPT = PromptConfig(pool_size=8)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone()


@pytest.fixture(scope="module")
def dataset(photos):
    return read_data(photos, shots=2)


@pytest.fixture(scope="module")
def finished(backbone, dataset, tmp_path_factory):
    """A finished run with PROMPT and QUICK; read it, copy it, do not write to it."""
    return fit(dataset, backbone, PROMPT, QUICK, tmp_path_factory.mktemp("finished") / "run", latest=False)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_is_complete_and_can_be_loaded(backbone, dataset):
    folder = fit(dataset, backbone, PROMPT, QUICK)
    assert sorted(p.name for p in folder.iterdir()) == [
        "clusters.png",
        "confusion.png",
        "curves.png",
        "metrics.jsonl",
        "prompt.safetensors",
        "report.html",
        "results.json",
        "usage.png",
    ]
    assert Path("runs/latest").samefile(folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["loss"] < records[0]["loss"]
    with Image.open(folder / "curves.png") as curves:
        assert curves.width > 500
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["images"] == len(dataset.test)
    assert len(results["pool_alive"]) == 1  # one pool, whatever the number of blocks
    run = load_run(folder)
    assert (run.prompt, run.train, run.classes) == (PROMPT, QUICK, dataset.classes)
    assert load_model(run).pool.tokens.shape == (1, 8, 2, 128)


def test_the_same_seed_gives_the_same_prompt_and_another_another(backbone, dataset, finished):
    again = fit(dataset, backbone, PROMPT, QUICK)
    other = fit(dataset, backbone, PROMPT, dataclasses.replace(QUICK, seed=2))
    assert again != other
    a, b, c = (load_file(folder / "prompt.safetensors") for folder in (finished, again, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["tokens"], c["tokens"])


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


def wait_for(file: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_runs_with_several_threads_write_the_same_bytes_stopped_or_not(photos, tmp_path):
    """Each in a fresh process; one is stopped, and goes on where the machine now has one thread."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["--epochs", "12", "--output"]
    subprocess.run(command_line(photos, *options, str(whole)), env=threads(2), capture_output=True, check=True)
    process = subprocess.Popen(
        command_line(photos, *options, str(stopped)), env=threads(2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(stopped / "state.safetensors", process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    resumed = subprocess.run(
        command_line(photos, *options, str(stopped)), env=threads(1), capture_output=True, text=True, check=True
    )
    assert "going on after epoch" in resumed.stderr
    assert digest(stopped / "prompt.safetensors") == digest(whole / "prompt.safetensors")
    assert json.loads((stopped / "results.json").read_text())["threads"] == 2


def test_cuda_is_made_to_repeat_itself_before_it_starts(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    started = []
    monkeypatch.setattr(
        torch.cuda,
        "set_device",
        lambda device: started.append(
            (os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.are_deterministic_algorithms_enabled())
        ),
    )
    try:
        pick_device("cuda")
    finally:
        torch.use_deterministic_algorithms(False)
    assert started == [(":4096:8", True)]


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


def test_the_moving_accuracy_starts_at_the_first_step_s(capsys):
    with Progress().training(20, 0) as step:
        for _ in range(2):
            step({"loss": 2.0, "accuracy": 0.8})
    assert capsys.readouterr().err == "train: step 2/20  loss 2.000  accuracy 80.0%\n"


def test_tensorboard_scalars(backbone, dataset):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = fit(dataset, backbone, PROMPT, QUICK, scalars=True)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == {"accuracy", "loss", "lr", *(f"loss/{n}" for n in records[0] if n in TERMS)}
    for tag, name in (("loss/class", "class"), ("accuracy", "accuracy")):
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [
            (r["epoch"], pytest.approx(r[name], rel=1e-6))
            for r in records  # float32 in the event file
        ]


@pytest.mark.parametrize("term", TERMS)
def test_a_loss_of_weight_0_is_not_there(backbone, dataset, term):
    weights: dict[str, Any] = {f"weight_{name}": 1.0 for name in TERMS} | {f"weight_{term}": 0.0}
    folder = fit(dataset, backbone, PROMPT, dataclasses.replace(QUICK, epochs=1, **weights))
    record = json.loads((folder / "metrics.jsonl").read_text())
    assert set(record) == {"epoch", "loss", "accuracy", "lr", *TERMS} - {term}


def test_the_averaged_prompt_is_what_is_kept_and_evaluated(backbone, dataset, finished):
    late = dataclasses.replace(QUICK, average=True, average_mean=1.0, average_std=1e-3)  # all weight on the last epoch
    early = dataclasses.replace(late, average_mean=1 / 3)  # on the first
    averaged = [fit(dataset, backbone, PROMPT, config) for config in (late, early)]
    plain, last, first = (load_file(folder / "prompt.safetensors") for folder in (finished, *averaged))
    assert torch.equal(plain["tokens"], last["tokens"])
    assert not torch.allclose(plain["tokens"], first["tokens"], atol=1e-3)


def test_bf16_keeps_prompts_in_single_precision(backbone, dataset, finished):
    folder = fit(dataset, backbone, PROMPT, dataclasses.replace(QUICK, precision="bf16"))
    tensors = load_file(folder / "prompt.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    full = load_file(finished / "prompt.safetensors")
    assert not torch.equal(tensors["tokens"], full["tokens"])
    # bf16 has 8 bits; Adam moves a prompt by about the learning rate, three times, whatever the gradient's length.
    assert (tensors["tokens"] - full["tokens"]).abs().mean() < QUICK.lr / 4


def test_a_killed_command_is_resumed_by_the_same_command(photos, tmp_path):
    command = command_line(photos, "--epochs", "60")
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "runs" / "pocket-photos-1" / "state.safetensors"
    wait_for(state, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.exists()
    metrics = state.with_name("metrics.jsonl")
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # The kill may fall between the checkpoint and the metrics of one epoch, which are written in this order.
    assert any(f"pocket-photos-1: going on after epoch {epoch}\n" in again.stderr for epoch in (done, done + 1))
    assert (state.parent / "prompt.safetensors").exists()
    assert not state.exists()


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


def stop(self, rows, views):
    """In the place of Trainer.step."""
    raise KeyboardInterrupt


def test_a_stop_before_the_first_checkpoint_leaves_a_folder_that_goes_on(backbone, dataset, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, backbone, PROMPT, QUICK, scalars=True)
    assert fit(dataset, backbone, PROMPT, QUICK, scalars=True).name == "pocket-photos-1"


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


def test_a_loss_that_is_not_finite_stops_and_is_named(backbone, dataset):
    with pytest.raises(FailedError, match=r"the (class|text) loss is not finite at epoch \d+, step \d+: lower `lr`"):
        fit(dataset, backbone, PROMPT, dataclasses.replace(QUICK, optimizer="sgd", lr=1e30))


@pytest.mark.parametrize("unreadable", [1, 5])
def test_test_images_that_cannot_be_read_are_left_out(backbone, dataset, tmp_path, unreadable):
    """Even the only one of a class, and even all."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    test = [dataclasses.replace(p, path=broken) if i < unreadable else p for i, p in enumerate(dataset.test)]
    folder = fit(dataclasses.replace(dataset, test=test), backbone, PROMPT, QUICK)
    results = json.loads((folder / "results.json").read_text())
    left = results["test"]["images"] if "test" in results else 0
    assert left == len(test) - unreadable


def test_a_class_needs_a_training_image_that_can_be_read(backbone, dataset, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    train = [dataclasses.replace(p, path=broken) if p.target == 1 else p for p in dataset.train]
    with pytest.raises(UsageError, match=f"no training image of {dataset.classes[1]} can be read"):
        fit(dataclasses.replace(dataset, train=train), backbone, PROMPT, QUICK)


def test_changed_backbone_weights_are_noticed(finished):
    run = load_run(finished)
    changed = dataclasses.replace(run, backbone=run.backbone | {"sha256": "0" * 64})
    with pytest.raises(UsageError, match="the weights of pocket have changed"):
        load_model(changed)


def test_a_damaged_prompt_is_one_line(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    file = folder / "prompt.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FailedError, match="not a readable attri file"):
        load_run(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters is 0: it must be 1 or more"),
        ({"topk": 9, "pool_size": 8}, "the pool has only 8"),
        ({"pool_size": 0}, "nothing would be learned"),
        ({"kmeans_init": "random"}, "choose 'grid' or 'farthest'"),
    ],
)
def test_configs_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        PromptConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": float("nan")}, "lr is nan: it must be more than 0, and finite"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"warmup": 1.5}, "warmup is 1.5: it is a share, from 0 to 1"),
        ({"warmup": float("nan")}, "warmup is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({f"weight_{term}": 0.0 for term in TERMS}, "every loss has weight 0: nothing would be learned"),
    ],
)
def test_trainings_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


@pytest.mark.parametrize(
    "prompt", [PromptConfig(pool_size=0, static_tokens=4), PromptConfig(pool_size=1)], ids=["no keys", "a single key"]
)
def test_a_prompt_that_no_loss_reaches_is_refused(backbone, dataset, prompt, tmp_path):
    weights: dict[str, Any] = {f"weight_{term}": 0.0 for term in TERMS} | {"weight_diversity": 1.0}
    with pytest.raises(UsageError, match="no loss of a weight above 0 reaches this prompt: nothing would be learned"):
        fit(dataset, backbone, prompt, dataclasses.replace(QUICK, **weights))
    assert not (tmp_path / "runs").exists()


def test_a_prompt_that_is_not_finite_is_not_saved(backbone, dataset, monkeypatch):
    def spoil(self):
        with torch.no_grad():
            self.model.pool.tokens[0, 0, 0, 0] = torch.inf

    monkeypatch.setattr(Trainer, "end_epoch", spoil)
    with pytest.raises(FailedError, match="tokens is not finite after epoch 0, step 1: lower `lr`"):
        fit(dataset, backbone, PROMPT, QUICK)
    assert not list(Path("runs").glob("*/*.safetensors"))


def test_a_template_without_a_place_for_the_label():
    with pytest.raises(UsageError, match="has 0 of"):
        TrainConfig(template="a photo")


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


def test_static_prompts_alone_are_a_baseline(backbone, dataset):
    folder = fit(dataset, backbone, PromptConfig(pool_size=0, static_tokens=4), QUICK)
    assert load_model(load_run(folder)).pool.static.shape == (6, 4, 128)
