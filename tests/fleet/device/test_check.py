"""What a release has to show, on a real bundle: its engines agree, its time is bounded, golden images are as good."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.manifests import edit_manifest
from support.prompts import noise

from attri.fleet.device.check import Check, agree, main, suffice
from attri.fleet.device.golden import read_golden
from attri.runtime.bundle import PROMPT, REFERENCE, file_entry
from attri.runtime.classifier import Classifier
from attri.runtime.errors import BundleError, EngineError, ParityError, RefusedError, UsageError
from attri.runtime.prompt import IndependentScores, Prompt

CPU = Check("onnxruntime", "cpu", 1)


@pytest.fixture(scope="module")
def golden(bundle: Path, image_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images under the labels that the bundle gives them: on these it is right, always."""
    folder = tmp_path_factory.mktemp("golden")
    with Classifier.load(bundle, backend="onnxruntime", device="cpu") as classifier:
        for number, image in enumerate(image_files[:12]):
            target = folder / str(classifier(image).label).replace(" ", "_") / f"{number}.png"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(image, target)
    return folder


@pytest.fixture
def other(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to change."""
    return shutil.copytree(bundle, tmp_path / "other")


def with_prompt(bundle: Path, change: Callable[[Prompt], Prompt]) -> None:
    change(Prompt.read(bundle / PROMPT)).save(bundle / PROMPT)


def test_a_good_bundle_agrees_and_suffices(bundle: Path, golden: Path) -> None:
    assert min(agree(bundle, CPU).values()) > 0.9999
    figures = suffice(bundle, bundle, Check("onnxruntime", "cpu", 1, golden=str(golden)))
    assert figures["golden"] == figures["right"] == figures["right_before"] == 12
    assert figures["latency_ms"] > 0


def test_a_prompt_of_noise_is_no_better_than_what_runs(bundle: Path, other: Path, golden: Path) -> None:
    with_prompt(other, noise)
    with pytest.raises(RefusedError, match=r"of 12 golden images are right, 12 with what runs"):
        suffice(other, bundle, Check("onnxruntime", "cpu", 1, golden=str(golden)))
    found = suffice(other, bundle, Check("onnxruntime", "cpu", 1, golden=str(golden), tolerance=100.0))
    assert found["right"] < 12
    assert suffice(other, None, Check("onnxruntime", "cpu", 1, golden=str(golden)))["right"] == found["right"]


def test_a_graph_that_computes_something_else_is_refused(other: Path) -> None:
    with np.load(other / REFERENCE) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["image_features"] = np.roll(arrays["image_features"], 1, axis=1)
    (other / REFERENCE).unlink()
    np.savez(other / REFERENCE, **arrays)
    edit_manifest(other, lambda raw: raw["files"].update({REFERENCE: file_entry(other / REFERENCE)}))
    with pytest.raises(ParityError, match="does not agree"):
        agree(other, CPU)


@pytest.mark.filterwarnings("ignore:.*encountered")  # by NumPy, an error in tests alone
@pytest.mark.parametrize("odd", ["temperature", "tables"])
def test_a_prompt_whose_numbers_overflow_is_refused(bundle: Path, other: Path, odd: str) -> None:
    def overflow(prompt: Prompt) -> Prompt:
        if odd == "temperature":
            return Prompt.of(dataclasses.replace(prompt.facts, temperature=1e-320), prompt.tensors)
        table = np.full_like(prompt.tensors["prompt_table"], 3e38)
        return Prompt.of(prompt.facts, {**prompt.tensors, "prompt_table": table})

    with_prompt(other, overflow)
    with pytest.raises((RefusedError, EngineError), match=r"finite|NaN"):
        suffice(other, bundle, CPU)


def test_a_bound_on_the_time_of_an_image(bundle: Path) -> None:
    with pytest.raises(RefusedError, match=r"an image takes .* ms, the bound is 0.001"):
        suffice(bundle, None, Check("onnxruntime", "cpu", 1, latency_ms=0.001))


def test_it_is_judged_as_attri_run_asks_it(bundle: Path, other: Path, golden: Path) -> None:
    asked = dataclasses.replace(CPU, golden=str(golden))
    with_prompt(other, lambda prompt: Prompt.of(dataclasses.replace(prompt.facts, threshold=0.999), prompt.tensors))
    with pytest.raises(RefusedError, match="of 12 golden images are right"):
        suffice(other, bundle, asked)  # by its own threshold it rejects them
    assert suffice(other, bundle, dataclasses.replace(asked, threshold=0.0))["right"] == 12
    assert suffice(bundle, bundle, dataclasses.replace(asked, threshold=1.0))["right"] == 0
    with Classifier.load(bundle, backend="onnxruntime", device="cpu") as classifier:
        images = read_golden(golden)
        classifier.set_labels(classifier.labels, template="no {} at all")
        right = sum(classifier(image).label == label for image, label in images)
    assert suffice(bundle, None, dataclasses.replace(asked, template="no {} at all"))["right"] == right
    with pytest.raises(RefusedError, match="independent"):  # nobody calibrated it
        suffice(bundle, bundle, dataclasses.replace(asked, independent=True))
    scores = IndependentScores(1.0, 0.0, threshold=0.0)
    with_prompt(other, lambda prompt: Prompt.of(dataclasses.replace(prompt.facts, independent=scores), prompt.tensors))
    assert suffice(other, None, dataclasses.replace(asked, independent=True))["right"] == 12


def test_graphs_that_the_prompt_of_a_task_does_not_fit_are_refused(bundle: Path, tmp_path: Path) -> None:
    own = Path(shutil.copy(bundle / PROMPT, tmp_path / "own.attri"))
    asked = dataclasses.replace(CPU, prompts=[str(own)])
    agree(bundle, asked)
    prompt = Prompt.read(own)
    facts = dataclasses.replace(prompt.facts, base={**prompt.facts.base, "clusters": 99})
    Prompt.of(facts, prompt.tensors).save(own)
    with pytest.raises(BundleError, match=r"own\.attri"):
        agree(bundle, asked)
    own.unlink()
    with pytest.raises(UsageError, match=r"own\.attri"):  # no fault of the release
        agree(bundle, asked)


def test_golden_images_of_labels_that_nobody_has(bundle: Path, golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden, tmp_path / "golden")
    (folder / "a_ghost").mkdir()
    shutil.copy(next(golden.rglob("*.png")), folder / "a_ghost" / "1.png")
    with pytest.raises(RefusedError, match="no label a ghost"):
        suffice(bundle, None, Check("onnxruntime", "cpu", 1, golden=str(folder)))
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n")
    with pytest.raises(UsageError, match=r"labels.txt has no .*a ghost"):
        suffice(bundle, None, Check("onnxruntime", "cpu", 1, str(labels), golden=str(folder)))


def test_a_folder_without_golden_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "golden" / "cat").mkdir(parents=True)
    for folder in (tmp_path / "golden", tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="no golden images"):
            read_golden(folder)


def test_what_cannot_run_here_is_refused_with_the_reason(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(str(bundle), "", json.dumps(Check("tensorrt").to_dict()))
    found = json.loads(capsys.readouterr().out)
    assert found["stage"] == "refused"
    assert "ensor" in found["reason"]
