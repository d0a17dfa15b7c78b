"""The published datasets in one command: what is found, run, resumed, averaged and printed."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.layouts import lay_out

from attri.train import commands
from attri.train.cli import main
from attri.train.evaluation import benchmark
from attri.train.evaluation.published import BASE_TO_NOVEL, CROSS_DATASET, DOMAINS
from attri.train.model.backbone import load_backbone

QUICK = ["--seeds", "1,2", "--shots", "1", "--epochs", "1", "--augmentations", "1", "--method", "zero-shot"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trees(root: Path, image_files, *names: str) -> Path:
    """Datasets in folders whose names say nothing."""
    for number, name in enumerate(names):
        lay_out(name, root / f"folder {number}", image_files)
    return root


def run(root: Path, *options: str):
    return CliRunner().invoke(main, ["--data", str(root), "--datasets", "all", *QUICK, *options])


def rows(table: str) -> list[list[str]]:
    """Cells of the first table."""
    lines = table.split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_dataset_its_average_what_is_missing_and_the_published_figures(tmp_path, image_files):
    root = trees(tmp_path / "data", image_files, "EuroSAT", "Caltech101")
    done = run(root, "--protocol", "base-to-novel", "--method", "static")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "runs/base-to-novel-pocket-data/results.md").read_text(encoding="utf-8")
    assert done.stdout == text + "\n"
    header, _, *body = rows(text)
    assert header == ["dataset", "method", "base", "novel", "HM"]
    assert [row[:2] for row in body] == [
        [dataset, method] for dataset in ("Caltech101", "EuroSAT", "average") for method in ("zero-shot", "static")
    ]
    by_hand: dict[tuple[str, str], list[float]] = {}
    for dataset in ("Caltech101", "EuroSAT"):
        results = json.loads((tmp_path / f"runs/base-to-novel-pocket-data/{dataset}/results.json").read_text())
        for score in results["scores"]:
            by_hand.setdefault((score["method"], score["column"]), []).append(100 * score["accuracy"])
    for method in ("zero-shot", "static"):
        base, novel = (statistics.mean(by_hand[method, column]) for column in ("base", "novel"))
        harmonic = 2 * base * novel / (base + novel) if base + novel else 0.0
        average = next(row for row in body if row[:2] == ["average", method])
        assert average[2:] == [f"{base:.2f}", f"{novel:.2f}", f"{harmonic:.2f}"]
    assert "Not in the folder, and not in any average: ImageNet, OxfordPets, " in text
    assert "| PromptSRC | 84.26 | 76.10 | 79.97 |" in text


def test_each_dataset_is_trained_with_its_own_template(tmp_path, image_files):
    root = trees(tmp_path / "data", image_files, "EuroSAT", "Caltech101")
    assert run(root, "--protocol", "base-to-novel", "--output", "out").exit_code == 0
    used = {
        name: json.loads(Path("out", name, "results.json").read_text())["run"]["train"]["template"]
        for name in ("EuroSAT", "Caltech101")
    }
    assert used == {"EuroSAT": "a centered satellite photo of {}.", "Caltech101": "a photo of a {}."}


def test_what_is_finished_is_not_run_again(tmp_path, image_files, monkeypatch):
    root = trees(tmp_path / "data", image_files, "EuroSAT", "Caltech101")
    first, inner = [], benchmark.protocols.run

    def stopped_after_one(*arguments):
        if first:
            raise KeyboardInterrupt
        first.append(inner(*arguments))

    monkeypatch.setattr(benchmark.protocols, "run", stopped_after_one)
    assert run(root, "--protocol", "base-to-novel", "--output", "out").exit_code != 0
    done = Path("out/Caltech101/results.json").stat().st_mtime_ns
    assert not Path("out/EuroSAT").exists()
    monkeypatch.setattr(benchmark.protocols, "run", inner)
    assert run(root, "--protocol", "base-to-novel", "--output", "out").exit_code == 0
    assert Path("out/Caltech101/results.json").stat().st_mtime_ns == done
    assert Path("out/EuroSAT/results.json").exists()
    other = run(root, "--protocol", "base-to-novel", "--output", "out", "--shots", "2")
    assert other.exit_code == 2
    assert "holds results of other settings, images or weights" in other.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("protocol", "targets", "published"),
    [
        ("cross-dataset", ["EuroSAT", "UCF101"], "| PromptSRC | 71.27 | 65.81 |"),
        ("domain-generalization", ["ImageNetA", "ImageNetR"], "| MaPLe | 70.72 | 64.07 | 49.15 | 50.90 | 76.98 |"),
    ],
)
def test_from_imagenet_to_others(tmp_path, image_files, protocol, targets, published):
    root = trees(
        tmp_path / "data", image_files, *targets, "ImageNet", "Food101" if protocol[0] == "d" else "ImageNetV2"
    )
    done = run(root, "--protocol", protocol)
    assert done.exit_code == 0, done.output
    assert rows(done.stdout)[0] == ["method", "ImageNet (source)", *targets, "average of targets"]
    assert published in done.stdout


def test_a_model_in_a_folder_has_a_run_folder_of_one_name(tmp_path, image_files, monkeypatch):
    """Its name has slashes and a colon."""
    pocket = load_backbone()
    monkeypatch.setattr(commands, "load_backbone", lambda *_: replace(pocket, name="local-dir:models/pocket"))
    root = trees(tmp_path / "data", image_files, "EuroSAT")
    done = run(root, "--protocol", "base-to-novel")
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "EuroSAT/results.json").exists()


def test_few_shot_over_datasets(tmp_path, image_files):
    root = trees(tmp_path / "data", image_files, "EuroSAT", "Caltech101")
    done = run(root, "--protocol", "few-shot", "--shots", "1,2")
    assert done.exit_code == 0, done.output
    assert rows(done.stdout)[0] == ["dataset", "method", "1 shot", "2 shots"]
    assert len(rows(done.stdout)) == 2 + 3


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["EuroSAT"], ["--protocol", "cross-dataset"], "has no folder in CoOp's layout of ImageNet"),
        (["ImageNet"], ["--protocol", "cross-dataset"], "holds none of the datasets to score"),
        ([], ["--protocol", "base-to-novel"], "holds none of the datasets to score"),
        (["EuroSAT", "EuroSAT"], ["--protocol", "base-to-novel"], "both hold EuroSAT"),
        (["EuroSAT"], ["--protocol", "base-to-novel", "--datasets", "EuroSAT,Food101"], "of Food101"),
        (["EuroSAT"], ["--protocol", "base-to-novel", "--datasets", "CIFAR"], "CIFAR is none of the datasets"),
        (["EuroSAT"], ["--protocol", "base-to-novel", "--datasets", "a,,b"], "names with commas between them"),
        (["EuroSAT"], ["--protocol", "cross-dataset", "--target", "x"], "leave out --target"),
        (["EuroSAT"], [], "--datasets goes with --protocol"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, image_files, names, options, message):
    root = tmp_path / "data"
    root.mkdir()
    trees(root, image_files, *names)
    done = run(root, *options)
    assert done.exit_code == 2, done.output
    assert message in re.sub(r"\s+", " ", done.output)


@pytest.mark.parametrize(("base", "novel", "harmonic"), BASE_TO_NOVEL.values(), ids=BASE_TO_NOVEL)
def test_published_harmonic_means_are_those_of_their_averages(base, novel, harmonic):
    assert harmonic == pytest.approx(2 * base * novel / (base + novel), abs=0.011)  # of figures with two decimals


def test_published_figures_are_of_the_same_methods():
    assert set(CROSS_DATASET) == set(BASE_TO_NOVEL) - {"CLIP"}
    assert set(DOMAINS) == set(BASE_TO_NOVEL)
    assert statistics.mean(DOMAINS["PromptSRC"][1:]) == pytest.approx(60.65, abs=0.01)  # as the paper prints it
