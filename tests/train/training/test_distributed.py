"""torchrun: two processes learn what one learns, and stop together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from safetensors.torch import load_file
from support.peers import free_port

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


def torchrun(folder, *command):
    words = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node=2", "--no-python", *map(str, command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def run(folder, *command):
    """What two processes print that begin as torchrun begins them, which is a third one with PyTorch in it."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common = place | {"TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    processes = [
        subprocess.Popen(list(map(str, command)), env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank}, **pipes)
        for rank in ("0", "1")
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return "".join(stdout for stdout, _ in said)


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
    stdout = run(folder, BIN / "attri-train", "--data", data, *TRAIN, *options)
    return folder / "runs" / "pocket-photos-1", stdout


def test_two_processes_give_the_prompts_of_one(tmp_path, photos, monkeypatch, figures):
    # Of 20 images the last batch of 19 holds one, and leaves a process without any. SGD, because Adam would hide a
    # gradient of the wrong length. Nothing moves the keys, and the average is taken.
    options = ["--batch-size", "19", "--optimizer", "sgd", "--lr", "0.05", "--average"]
    for name, weight in (("instance", "0.7"), ("retrieval", "0"), ("diversity", "0")):
        options += ["--loss-weight", name, weight]
    one, alone = train_here(tmp_path / "1", photos, options, monkeypatch)
    two, together = train_together(tmp_path / "2", photos, options)
    ours, theirs = (load_file(run / "prompt.safetensors") for run in (two, one))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # Sums run in another order.
        assert value.numel() == 0 or (ours[name] - value).abs().max() < 1e-5, name
    assert together == alone
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())


def test_errors_of_the_first_and_signals_to_any_reach_all(tmp_path, photos):
    run(tmp_path, sys.executable, "-c", TOGETHER, photos)
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second == repr([[True, False], "the first says no", 3])


def test_an_error_is_said_once(tmp_path, photos):
    (tmp_path / "thesis.txt").write_text("precious")
    done = torchrun(tmp_path, BIN / "attri-train", "--data", photos, *TRAIN, "--output", tmp_path)
    assert done.stderr.count("is not empty and not a run (it has thesis.txt)") == 1
    assert done.stderr.count("Traceback") == 1  # torchrun's own, which says that the command failed
    assert "exitcode  : 2 " in done.stderr
