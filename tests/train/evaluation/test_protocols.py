"""The protocols: what is trained on, what is scored, what is written, and that all of it can be stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.layouts import lay_out

from attri.runtime.errors import UsageError
from attri.train.cli import main
from attri.train.config import TERMS, PromptConfig, TrainConfig
from attri.train.data import read_data, read_target
from attri.train.data.templates import ENSEMBLE
from attri.train.evaluation import protocols, result_tables
from attri.train.evaluation.protocols import ProtocolSpec, run
from attri.train.fitting import label_tokens, load_model
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.training.checkpoint import load_run
from attri.train.training.trainer import Trainer

QUICK = TrainConfig(epochs=2, augmentations=1, batch_size=8)
PROMPT = PromptConfig(pool_size=4)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def read(photos):
    return lambda seed, shots: read_data(photos, shots=shots, seed=seed)


def accuracy_by_hand(model, dataset, prompted):
    """One image at a time, from its pixels."""
    preprocess = model.backbone.preprocess()
    labels = label_tokens(model, dataset.classes, QUICK.template)
    right = 0
    for image in dataset.test:
        with torch.no_grad():
            pixels = torch.from_numpy(preprocess(image.path))[None]
            if prompted:
                logits = model(pixels, labels)[0]
            else:
                logits = model.plain_text(labels) @ model.encode_image(pixels)[0][0]
        right += int(logits.argmax()) == image.target
    return right / len(dataset.test)


def test_base_to_novel_scores_each_half_among_its_own_classes(backbone, read):
    plan = ProtocolSpec("base-to-novel", read, seeds=(1, 2), shots=(2,))
    folder = run(plan, backbone, PROMPT, QUICK)
    assert folder.name == "base-to-novel-pocket-photos-1"
    results = json.loads((folder / "results.json").read_text())
    found = {(s["method"], s["seed"], s["column"]): s for s in results["scores"]}
    assert len(found) == 3 * 2 * 2
    base, novel = read(1, 2).halves()
    assert (len(base.classes), len(novel.classes)) == (3, 2)
    for method, kind in (("static", PROMPT.static()), ("attriprompt", PROMPT)):
        trained = load_run(folder / f"{method}-2shots-seed2")
        assert (trained.classes, trained.prompt, trained.train.seed) == (base.classes, kind, 2)
        model = load_model(trained)
        for column, half in (("base", base), ("novel", novel)):
            assert found[method, 2, column]["accuracy"] == accuracy_by_hand(model, half, True)
    frozen = AttriPrompt(backbone, PROMPT)
    for column, half in (("base", base), ("novel", novel)):
        assert found["zero-shot", 1, column]["accuracy"] == accuracy_by_hand(frozen, half, False)
    assert "3 base and 2 novel classes" in (folder / "results.md").read_text()


def test_a_stopped_protocol_goes_on_without_training_twice(backbone, read, monkeypatch):
    plan = ProtocolSpec("few-shot", read, seeds=(1,), shots=(1, 2), methods=("attriprompt",))
    fit, trained = protocols.fit, []

    def stop_at_the_second(*arguments, **options):
        trained.append(arguments[4].name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(protocols, "fit", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(plan, backbone, PROMPT, QUICK)
    folder = run(plan, backbone, PROMPT, QUICK)
    assert trained == ["attriprompt-1shots-seed1", "attriprompt-2shots-seed1", "attriprompt-2shots-seed1"]
    assert folder.name.endswith("-1")
    header = (folder / "results.md").read_text().splitlines()[2]
    assert header == "| method | 1 shot | 2 shots |"
    with pytest.raises(UsageError, match="holds a finished run"):
        run(plan, backbone, PROMPT, QUICK, folder)


def test_other_datasets_are_scored_whole(backbone, read, photos, tmp_path):
    """A flat folder as a target has no test folder: all its images are scored, none held out."""
    other = tmp_path / "drawings"
    for folder in sorted((photos / "train").iterdir())[:3]:
        shutil.copytree(folder, other / folder.name)
    plan = ProtocolSpec("domain-generalization", read, (read_target(other),), ("zero-shot", "static"), (1,), (2,))
    results = json.loads((run(plan, backbone, PROMPT, QUICK) / "results.json").read_text())
    images = {score["column"]: (score["images"], score["classes"]) for score in results["scores"]}
    assert images == {"photos": (5, 5), "drawings": (12, 3)}

    (other / "arrow").rename(other / "zebra")
    plan = dataclasses.replace(plan, targets=(read_target(other),))
    with pytest.raises(UsageError, match=r"has classes that photos lacks \(zebra\)"):
        run(plan, backbone, PROMPT, QUICK)
    cross = dataclasses.replace(plan, protocol="cross-dataset")
    lines = (run(cross, backbone, PROMPT, QUICK) / "results.md").read_text().splitlines()
    assert lines[2] == "| method | photos (source) | drawings | average of targets |"


def test_datasets_of_one_name_have_columns_of_their_own(backbone, read, photos, tmp_path):
    for year in ("2024", "2025"):
        shutil.copytree(photos, tmp_path / year / "photos")
    targets = tuple(read_target(tmp_path / year / "photos") for year in ("2024", "2025"))
    plan = ProtocolSpec("cross-dataset", read, targets, ("zero-shot",), (1,), (2,))
    lines = (run(plan, backbone, PROMPT, QUICK) / "results.md").read_text().splitlines()
    source = f"{photos.parent.name}/photos"
    assert lines[2] == f"| method | {source} (source) | 2024/photos | 2025/photos | average of targets |"


def test_a_dataset_that_is_named_twice_is_refused_before_training(backbone, read, photos, tmp_path):
    plan = ProtocolSpec("cross-dataset", read, (read_target(photos),), seeds=(1,), shots=(2,))
    with pytest.raises(UsageError, match=r"two datasets are called .*/photos: name each once, or rename a folder"):
        run(plan, backbone, PROMPT, QUICK)
    assert not (tmp_path / "runs").exists()


def test_a_half_of_one_class_is_refused_before_training(backbone, read, tmp_path):
    three = ProtocolSpec("base-to-novel", lambda seed, shots: read(seed, shots).only([0, 1, 2]), seeds=(1,), shots=(2,))
    with pytest.raises(UsageError, match=r"base-to-novel needs 4 or more classes, .*photos has 3"):
        run(three, backbone, PROMPT, QUICK)
    assert not (tmp_path / "runs").exists()


def test_a_target_without_readable_images_is_refused_before_training(backbone, read, tmp_path):
    for name in ("arrow", "bird"):
        (tmp_path / "junk" / name).mkdir(parents=True)
        (tmp_path / "junk" / name / "0.png").write_bytes(b"no image")
    plan = ProtocolSpec("cross-dataset", read, (read_target(tmp_path / "junk"),), ("static",), (1,), (2,))
    with pytest.raises(UsageError, match=r"no test image of .*junk can be read"):
        run(plan, backbone, PROMPT, QUICK)
    assert not list(Path("runs").glob("*/static-*"))


def test_static_prompts_have_as_many_tokens():
    prompt = PromptConfig(clusters=2, topk=2, prompt_length=3, static_tokens=1)
    assert (prompt.static().static_tokens, prompt.static().pool_size, prompt.static().retrieved) == (
        13,
        0,
        0,
    )


def test_the_harmonic_mean_is_that_of_the_averages():
    values = {"base": [0.8, 0.6], "novel": [0.5, 0.1]}
    scores = [
        {"method": "attriprompt", "seed": seed, "shots": 16, "column": column, "accuracy": value, "classes": 6}
        for column, two in values.items()
        for seed, value in enumerate(two)
    ]
    run = {"seeds": [0, 1], "shots": [16], "backbone": {"model": "pocket"}}
    table = result_tables.markdown({"protocol": "base-to-novel", "scores": scores, "run": run})
    spread = 100 * statistics.stdev([0.8, 0.6]), 100 * statistics.stdev([0.5, 0.1])
    expected = 2 * 70 * 30 / 100  # HM(70, 30), not the mean of HM(80, 50) and HM(60, 10)
    assert (
        table.splitlines()[-1] == f"| attriprompt | 70.0 ({spread[0]:.1f}) | 30.0 ({spread[1]:.1f}) | {expected:.1f} |"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "1,2"], "--seeds goes with --protocol"),
        (["--target", "x"], "--target goes with --protocol"),
        (["--method", "static", "--method", "attriprompt"], "without --protocol one method is trained"),
        (["--method", "zero-shot"], "without --protocol one method is trained"),
        (["--method", "static", "--pool-size", "4"], "--method static has no pool: leave out --pool-size"),
        (["--protocol", "few-shot", "--seed", "2"], "--seed does not go with --protocol: say --seeds"),
        (["--shots", "1,2"], "several --shots go with --protocol few-shot"),
        (["--protocol", "base-to-novel", "--shots", "1,x"], "whole numbers from 1 on"),
        (["--protocol", "cross-dataset"], "cross-dataset needs target datasets to score"),
        (["--protocol", "base-to-novel", "--target", "."], "takes no target datasets"),
        (["--model", "ViT-B-16"], "needs --pretrained"),
        (["--loss-weight", "class", "-1"], "weight_class is -1.0: it must be 0 (off) or more"),
        (["--lr", "nan"], "lr is nan: it must be more than 0"),
        (
            [
                "--protocol",
                "few-shot",
                *(part for t in TERMS if t != "retrieval" for part in ("--loss-weight", t, "0")),
            ],
            "no loss of a weight above 0 reaches this prompt",  # the static one
        ),
        (["--ensemble", "--frozen-template", "a {}."], "choose one"),
        (["--loss-weight", "typo", "0"], "'typo' is not one of"),
    ],
)
def test_options_that_do_not_go_together(options, message, photos):
    options = [str(photos) if option == "." else option for option in options]
    done = CliRunner().invoke(main, ["--data", str(photos), *options])
    assert done.exit_code == 2, done.output
    assert message in done.output.replace("\n", " ")


def test_a_gpu_that_is_too_small_is_one_line(photos, monkeypatch):
    def full(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Trainer, "step", full)
    done = CliRunner().invoke(main, ["--data", str(photos), "--augmentations", "1", "--batch-size", "8"])
    assert done.exit_code == 1
    assert "is out of memory: lower --batch-size (it is 8)" in done.output


def test_the_command_prints_the_table(photos):
    options = ["--protocol", "base-to-novel", "--seeds", "1", "--method", "zero-shot", "--epochs", "1"]
    done = CliRunner().invoke(main, ["--data", str(photos), *options])
    assert done.exit_code == 0, done.output
    assert "| zero-shot | " in done.stdout
    assert done.stdout.endswith("run   runs/base-to-novel-pocket-photos-1\n")


def test_static_prompts_are_trained_by_name(photos):
    options = ["--method", "static", "--epochs", "1", "--augmentations", "1", "--clusters", "3", "--static-tokens", "1"]
    done = CliRunner().invoke(main, ["--data", str(photos), *options])
    assert done.exit_code == 0, done.output
    prompt = load_run(Path("runs/latest")).prompt
    assert (prompt.pool_size, prompt.static_tokens) == (0, 3 * 2 + 1)  # as many tokens as AttriPrompt would bring


def test_the_ensemble_is_what_the_run_was_trained_with(photos):
    done = CliRunner().invoke(main, ["--data", str(photos), "--epochs", "1", "--augmentations", "1", "--ensemble"])
    assert done.exit_code == 0, done.output
    assert load_run(Path("runs/latest")).train.frozen_templates == ENSEMBLE


def test_the_ensemble_has_the_dataset_s_own_template_too(tmp_path, image_files):
    root = lay_out("EuroSAT", tmp_path / "data", image_files).root
    done = CliRunner().invoke(
        main, ["--data", str(root), "--epochs", "1", "--shots", "1", "--augmentations", "1", "--ensemble"]
    )
    assert done.exit_code == 0, done.output
    own = "a centered satellite photo of {}."
    assert load_run(Path("runs/latest")).train.frozen_templates == (*ENSEMBLE, own)
