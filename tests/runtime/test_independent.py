"""Independent labels, from a prompt's calibration to attri-run: each scored by itself, none, one or several hold."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.manifests import edit_manifest

from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT
from attri.runtime.cli.run import main as attri_run
from attri.runtime.errors import BundleError, UsageError
from attri.runtime.prompt import IndependentScores, Prompt

LABELS = ["red apple", "bird", "a small house", "cat"]


@pytest.fixture(scope="module")
def plain(bundle: Path) -> Prompt:
    return Prompt.read(bundle / PROMPT)


@pytest.fixture(scope="module")
def centre(bundle: Path, image_files: list[Path]) -> float:
    """A cosine that about half of images and labels exceed."""
    with Classifier.load(bundle, LABELS, device="cpu", threads=1) as classifier:
        return float(np.median(cosines_of(classifier, image_files[:8])))


@pytest.fixture(scope="module")
def prompt(plain: Prompt, centre: float) -> Prompt:
    scores = IndependentScores(50.0, -50.0 * centre, 0.4, {"bird": 0.9, "cat": 0.1})
    return Prompt.of(dataclasses.replace(plain.facts, independent=scores, labels=LABELS), plain.tensors)


@pytest.fixture
def classifier(bundle: Path, prompt: Prompt) -> Iterator[Classifier]:
    with Classifier.load(bundle, prompt=prompt, device="cpu", threads=1, independent=True) as loaded:
        yield loaded


def cosines_of(classifier: Classifier, files: list[Path]) -> Any:
    pixels = np.stack([classifier.bundle.preprocess()(file) for file in files])
    return classifier.cosines(*classifier.encode_image(pixels))


def test_each_label_is_scored_by_itself(
    classifier: Classifier, prompt: Prompt, centre: float, image_files: list[Path]
) -> None:
    limits = np.array([0.4, 0.9, 0.4, 0.1])
    counts = set()
    for cosines, found in zip(cosines_of(classifier, image_files[:8]), classifier(image_files[:8]), strict=True):
        wanted = 1 / (1 + np.exp(-50.0 * (cosines.astype(np.float64) - centre)))
        np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)  # float32
        assert found.thresholds is not None
        np.testing.assert_allclose(found.thresholds, limits)
        assert found.held is not None
        assert {label for label, _ in found.held} == {LABELS[i] for i in np.flatnonzero(wanted >= limits)}
        assert [score for _, score in found.held] == sorted((score for _, score in found.held), reverse=True)
        assert found.label == (found.held[0][0] if found.held else None)
        assert found.score == (found.held[0][1] if found.held else found.probabilities.max())
        assert [each["label"] for each in found.to_dict()["labels"]] == [label for label, _ in found.held]
        counts.add(len(found.held))
    assert max(counts) > 1  # several at once


def test_labels_do_not_compete(classifier: Classifier, image_files: list[Path]) -> None:
    """Others beside it change nothing, and one alone is no certainty."""
    together = classifier(image_files[0]).probabilities[1]
    classifier.labels = ["bird"]
    assert classifier(image_files[0]).probabilities == pytest.approx([together], abs=1e-6)


def test_thresholds_are_those_of_the_words_that_were_calibrated(
    classifier: Classifier, image_files: list[Path]
) -> None:
    classifier.set_labels(["bird", "cat", "dog"], prompts=[["bird"], ["a black cat"], ["dog"]])
    np.testing.assert_allclose(np.array(classifier(image_files[0]).thresholds), [0.9, 0.4, 0.4])
    classifier.set_labels(["bird", "cat"], template="a sketch of a {}.")
    np.testing.assert_allclose(np.array(classifier(image_files[0]).thresholds), [0.4, 0.4])
    classifier.threshold = 0.25
    np.testing.assert_allclose(np.array(classifier(image_files[0]).thresholds), [0.25, 0.25])


def test_one_label_alone_is_not_warned_of(bundle: Path, prompt: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Classifier.load(bundle, ["bird"], prompt=prompt, device="cpu", threads=1, independent=True):
        pass
    assert "always scores 100%" not in caplog.text


def test_it_can_be_switched_and_forks_have_it(classifier: Classifier, image_files: list[Path]) -> None:
    fork = classifier.fork()
    classifier.independent = False
    competing = classifier(image_files[0])
    assert (competing.thresholds, competing.held, "labels" in competing.to_dict()) == (None, None, False)
    assert competing.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert fork.independent
    assert fork(image_files[0]).held is not None


def test_a_prompt_without_calibration_is_refused(classifier: Classifier, bundle: Path, plain: Prompt) -> None:
    with pytest.raises(UsageError, match="need a scale and thresholds, which this prompt has not: export it again"):
        Classifier.load(bundle, device="cpu", threads=1, independent=True)
    before = classifier.prompt
    with pytest.raises(UsageError, match="which this prompt has not"):
        classifier.set_prompt(plain)
    assert classifier.prompt is before


def test_a_model_that_was_trained_for_it_needs_no_calibration(
    bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    """SigLIP's own scale and bias, from the manifest."""
    shutil.copytree(bundle, tmp_path / "bundle")
    edit_manifest(tmp_path / "bundle", lambda raw: raw.update(logit_bias=-12.5))
    with Classifier.load(tmp_path / "bundle", device="cpu", threads=1, independent=True) as classifier:
        manifest = classifier.bundle.manifest
        cosines = cosines_of(classifier, image_files[:4]).astype(np.float64)
        wanted = 1 / (1 + np.exp(-(manifest.logit_scale * cosines - 12.5)))
        found = classifier(image_files[:4])
        np.testing.assert_allclose([each.probabilities for each in found], wanted, atol=1e-4)  # float32 times 100
        assert {float(limit) for each in found for limit in np.array(each.thresholds)} == {0.5}


@pytest.mark.parametrize(
    "scores",
    [
        {"scale": 0.0, "bias": 1.0, "thresholds": {}},
        {"scale": 1.0, "bias": float("nan"), "thresholds": {}},
        {"scale": 1.0, "bias": 0.0, "thresholds": {"cat": 1.5}},
        {"scale": 1.0, "bias": 0.0, "threshold": -1},
        {"scale": 1.0, "bias": 0.0, "thresholds": []},
        {"scale": 1.0},
        [1, 2],
    ],
)
def test_scores_that_make_no_sense_are_refused(plain: Prompt, scores: Any) -> None:
    facts = dataclasses.replace(plain.facts, independent=scores)
    with pytest.raises(BundleError, match=r"unusable values \(independent\)"):
        Prompt.parse(Prompt.of(facts, plain.tensors).to_bytes())


def test_a_file_has_the_scores_or_lacks_them(plain: Prompt, prompt: Prompt) -> None:
    for each in (plain, prompt):
        again = Prompt.parse(each.to_bytes())
        assert (again.facts, again.digest) == (each.facts, each.digest)
    assert b"independent" not in plain.to_bytes()


def run(*words: object) -> Any:
    return CliRunner().invoke(attri_run, [str(word) for word in words])


def test_attri_run_prints_all_labels_that_hold(
    classifier: Classifier, bundle: Path, prompt: Prompt, image_files: list[Path], tmp_path: Path
) -> None:
    prompt.save(tmp_path / "a.attri")
    words = [*image_files[:8], "--bundle", bundle, "--prompt", tmp_path / "a.attri", "--independent", "--device", "cpu"]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    wanted = [each.held or () for each in classifier(image_files[:8])]
    assert [[each["label"] for each in one["labels"]] for one in found] == [
        [label for label, _ in one] for one in wanted
    ]
    lines = run(*words).stdout.splitlines()
    for line, labels in zip(lines, wanted, strict=True):
        assert all(f"{label} {score:.1%}" in line for label, score in labels)
        assert ("(none of the labels)" in line) == (not labels)
    every = run(*words, "--json", "--threshold", 0).stdout.splitlines()
    assert all(len(json.loads(line)["labels"]) == len(LABELS) for line in every)


def test_attri_run_says_in_one_line_that_it_cannot(bundle: Path, image_files: list[Path]) -> None:
    result = run(image_files[0], "--bundle", bundle, "--independent", "--device", "cpu")
    assert result.exit_code == 2
    assert "--independent scores need a scale and thresholds" in result.stderr.splitlines()[-1]


def write_sources(folder: Path, images: list[Path], held: str, best: str) -> Path:
    for number, image in enumerate(images):
        shutil.copy(image, folder / f"{number}{image.suffix}")
    text = f'[shots]\nuri = "{folder}"\n[shots.tasks.held]\n{held}\n[shots.tasks.best]\n{best}\n'
    (folder / "sources.toml").write_text(text)
    return folder / "sources.toml"


@pytest.mark.parametrize("command", ["", "--independent --prompt a.attri"])
def test_tasks_of_one_source_are_independent_or_not(
    bundle: Path, prompt: Prompt, plain: Prompt, image_files: list[Path], tmp_path: Path, command: str
) -> None:
    """What a task says counts more than the command line, also for a prompt that could not be asked so."""
    prompt.save(tmp_path / "a.attri")
    plain.save(tmp_path / "plain.attri")
    best = 'prompt = "plain.attri"' + "\nindependent = false" * bool(command)
    held = "" if command else 'prompt = "a.attri"\nindependent = true'
    sources = write_sources(tmp_path, image_files[:3], held, best)
    words = command.replace("a.attri", str(tmp_path / "a.attri")).split()
    result = run("--sources", sources, "--bundle", bundle, "--device", "cpu", "--json", *words)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["task"], "labels" in line) for line in lines] == [("held", True), ("best", False)] * 3


def test_a_task_that_cannot_be_independent_is_named(
    bundle: Path, plain: Prompt, prompt: Prompt, image_files: list[Path], tmp_path: Path
) -> None:
    plain.save(tmp_path / "plain.attri")
    sources = write_sources(tmp_path, image_files[:1], 'prompt = "plain.attri"\nindependent = true', "threshold = 0.1")
    words = ("--sources", sources, "--bundle", bundle, "--device", "cpu")
    result = run(*words)
    assert result.exit_code == 2
    assert "plain.attri: --independent scores need a scale and thresholds" in result.stderr.splitlines()[-1]
    write_sources(tmp_path, image_files[:1], 'independent = "yes"', "")
    assert "shots.tasks.held.independent cannot be 'yes'" in run(*words).stderr
    prompt.save(tmp_path / "a.attri")
    write_sources(tmp_path, image_files[:1], "independent = false", "independent = true")
    assert "--independent: every task or region has its own" in run(*words, "--independent").stderr
