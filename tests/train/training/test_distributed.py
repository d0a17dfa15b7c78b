"""torchrun: two processes learn what one learns, and stop together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from attri.train.cli import main

TOGETHER = """
import os, signal, sys
from pathlib import Path
import torch
from attri.runtime.errors import UsageError
from attri.train.training import distributed
from attri.train.model.backbone import load_backbone
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit
from attri.train.training.trainer import Trainer

def refuse():
    raise UsageError("the first says no")

def step(self, rows, views, usual=Trainer.step):
    steps.append(self.epoch)
    if distributed.rank() == 1 and len(steps) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return usual(self, rows, views)

steps, said = [], []
with distributed.process_group(torch.device("cpu")):
    said.append(distributed.any_rank(distributed.rank() == 1, False))
    try:
        distributed.on_rank_zero(refuse)
    except UsageError as error:
        said.append(str(error))
    Trainer.step = step
    try:
        fit(read_data(Path(sys.argv[1])), load_backbone(), PromptConfig(pool_size=4), TrainConfig(augmentations=1))
    except KeyboardInterrupt:
        said.append(len(steps))
    Path(f"rank{distributed.rank()}").write_text(repr(said))
os._exit(0)  # threads that DDP leaves behind may abort an interpreter that ends on a busy machine (pytorch #179291)
"""
BIN = Path(sys.executable).parent
TRAIN = ["--epochs", "2", "--augmentations", "1", "--pool-size", "4", "--device", "cpu"]


def run(folder, *command):
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node=2", "--no-python"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*torchrun, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)


def train_here(folder, data, options, monkeypatch):
    """The run folder of the command in this process, and what it printed."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["--data", str(data), *TRAIN, *options])
    assert done.exit_code == 0, done.stderr
    return folder / "runs" / "pocket-photos-1", done.stdout


def train_together(folder, data, options):
    """The run folder of two processes, and what they printed."""
    folder.mkdir()
    done = run(folder, BIN / "attri-train", "--data", data, *TRAIN, *options)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "pocket-photos-1", done.stdout


@pytest.mark.parametrize(
    "options",
    [
        # Of 20 images the last batch of 19 holds one, and leaves a process without any. SGD, because Adam would
        # hide a gradient of the wrong length.
        ["--batch-size", "19", "--loss-weight", "instance", "0.7", "--optimizer", "sgd", "--lr", "0.05"],
        # Nothing moves the keys, and the average is taken.
        ["--batch-size", "7", "--loss-weight", "retrieval", "0", "--loss-weight", "diversity", "0", "--average"],
    ],
    ids=["instance stream", "keys without gradient"],
)
def test_two_processes_give_the_prompts_of_one(tmp_path, photos, options, monkeypatch):
    one, alone = train_here(tmp_path / "1", photos, options, monkeypatch)
    two, together = train_together(tmp_path / "2", photos, options)
    ours, theirs = (load_file(run / "prompt.safetensors") for run in (two, one))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # Sums run in another order, and Adam divides by the root of tiny squares.
        assert value.numel() == 0 or (ours[name] - value).abs().max() < 1e-5, name
    assert together == alone
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())


def test_errors_of_the_first_and_signals_to_any_reach_all(tmp_path, photos):
    done = run(tmp_path, sys.executable, "-c", TOGETHER, photos)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second == repr([[True, False], "the first says no", 3])


def test_an_error_is_said_once(tmp_path, photos):
    (tmp_path / "thesis.txt").write_text("precious")
    done = run(tmp_path, BIN / "attri-train", "--data", photos, *TRAIN, "--output", tmp_path)
    assert done.stderr.count("is not empty and not a run (it has thesis.txt)") == 1
    assert done.stderr.count("Traceback") == 1  # torchrun's own, which says that the command failed
    assert "exitcode  : 2 " in done.stderr
