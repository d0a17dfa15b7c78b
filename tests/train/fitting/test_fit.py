"""Training as a whole: it learns, it repeats, it goes on after a kill, and it never leaves half a run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.training import PROMPT, QUICK

from attri.runtime.errors import FailedError, UsageError
from attri.train.config import TERMS, PromptConfig, TrainConfig
from attri.train.data.read import read_labelled
from attri.train.fitting import fit, load_model, pick_device
from attri.train.training.checkpoint import load_run
from attri.train.training.progress import Progress
from attri.train.training.trainer import Trainer


def test_a_run_is_complete_and_can_be_loaded(backbone, dataset, figures):
    folder = fit(dataset, backbone, PROMPT, QUICK)
    review = {"least_sure.png", "doubtful_labels.png", "near_duplicates.png"}  # of which there need be none
    assert sorted({p.name for p in folder.iterdir()} - review) == [
        "clusters.png",
        "confusion.png",
        "curves.png",
        "entries.png",
        "metrics.jsonl",
        "prompt.safetensors",
        "report.html",
        "results.json",
        "training_images.csv",
        "usage.png",
    ]
    listed = read_labelled(folder / "training_images.csv")
    assert (listed.classes, listed.train) == (dataset.classes, dataset.train)
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


def test_static_prompts_alone_are_a_baseline(backbone, dataset):
    folder = fit(dataset, backbone, PromptConfig(pool_size=0, static_tokens=4), QUICK)
    assert load_model(load_run(folder)).pool.static.shape == (6, 4, 128)
