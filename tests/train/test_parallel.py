"""torchrun: two processes learn what one learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

BIN = Path(sys.executable).parent
TRAIN = ["--epochs", "2", "--views", "1", "--pool-size", "4", "--device", "cpu"]


def train(folder, data, options, processes):
    """The run folder and what was printed."""
    torchrun = [str(BIN / "torchrun"), "--standalone", f"--nproc_per_node={processes}", "--no-python"]
    folder.mkdir()
    own = [str(BIN / "attri-train"), "--data", str(data), *TRAIN, *options]
    command = [*(torchrun if processes > 1 else []), *own]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "pocket-photos-1", done


@pytest.mark.parametrize(
    "options",
    [
        # Of 20 pictures the last batch of 19 holds one, and leaves a process without any. SGD, because Adam would
        # hide a gradient of the wrong length.
        ["--batch", "19", "--weight", "instance", "0.7", "--optimizer", "sgd", "--lr", "0.05"],
        # Nothing moves the keys, and the average is taken.
        ["--batch", "7", "--without", "retrieval", "--without", "diversity", "--average"],
    ],
    ids=["instance stream", "keys without gradient"],
)
def test_two_processes_give_the_prompts_of_one(tmp_path, photos, options):
    (one, alone), (two, together) = (train(tmp_path / str(n), photos, options, n) for n in (1, 2))
    ours, theirs = (load_file(run / "prompt.safetensors") for run in (two, one))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # Sums run in another order, and Adam divides by the root of tiny squares.
        assert value.numel() == 0 or (ours[name] - value).abs().max() < 1e-5, name
    assert together.stdout == alone.stdout
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
