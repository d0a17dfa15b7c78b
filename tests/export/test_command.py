"""attri-export as a person meets it: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from support.fakes import wait_for
from support.shared import made_once

from attri.export.bundle.writer import check_target
from attri.export.cli import main
from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.cli.run import main as attri_run
from attri.runtime.errors import FailedError
from attri.runtime.prompt import Prompt
from attri.train import pocket
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit
from attri.train.model.backbone import load_backbone
from attri.train.training.checkpoint import load_run, load_tensors, save_tensors

CONFIG, POOL_OF_4 = TrainConfig(epochs=1, augmentations=1), PromptConfig(pool_size=4)
# An export that has its vision graph at once, and never gets its text graph.
HALF_WAY = """
import sys, time, onnx
from attri.export import cli, onnx as exporter
exporter.trace_vision, exporter.trace_text = lambda *_: onnx.load(sys.argv[1]), lambda *_: time.sleep(600)
cli.main(sys.argv[2:])
"""
BRIEFLY = ("--no-calibrate", "--parity-images", 4)  # where neither scores nor parity are what a test is about


def trained(factory, name, dataset, prompt, config=CONFIG, tensors=None):
    """A run folder that the session trains once; with `tensors` in the place of what it learned, if there are some."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("attri.train.fitting.draw_figures", lambda *_: [])  # which takes longer than the training
            fit(dataset, load_backbone(), prompt, config, folder, latest=False)
        if tensors is not None:
            save_tensors(folder / "prompt.safetensors", tensors, load_tensors(folder / "prompt.safetensors")[1])

    return made_once(factory, name, make)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = dataclasses.replace(CONFIG, shots=1)
    return trained(tmp_path_factory, "run", read_data(pocket.IMAGES, shots=1), POOL_OF_4, config)


@pytest.fixture(scope="module")
def other_run(photos, pocket_model, tmp_path_factory):
    """Five classes, no image that is neither trained on nor tested, and prompts whose graphs are traced already."""
    tensors = dict(pocket_model.pool.state_dict())
    return trained(tmp_path_factory, "other-run", read_data(photos), PromptConfig(), tensors=tensors)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A bundle of `run`; read it, copy it, do not write to it."""

    def make(path):
        result = export(run, "--output", path, "--keep-features", *BRIEFLY)
        assert result.exit_code == 0, result.output
        assert re.search(r"^kept    features of 24 training images, 0\.\d\d MB of the prompt$", result.stdout, re.M)

    return made_once(tmp_path_factory, "exported-run", make)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def export(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_bundle_its_parity_table_and_the_stages_on_the_way(run, tmp_path):
    result = export(run, "--fp16", "--calibrate")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("parity")
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        "pixels",
        "image features",
        "retrieved entries",
        "text features",
        "logits",
        "top-1",
    ]
    assert [line.endswith("held") for line in lines[1:7]] == [True, True, True, True, False, True]
    assert lines[7].startswith("bundle  bundle  fp16")
    assert re.fullmatch(
        r"fp16    text.onnx  99.\d% of its initializers, \d\d.\d% of its tensors, greatest magnitude \d+ of 65504",
        lines[8],
    )
    assert lines[9].startswith("fp16    vision.onnx  9")
    assert re.fullmatch(
        r"scores  temperature \d\.\d+ from 256 validation images and training images beyond the shots,"
        r" calibration error \d+\.\d% without it, \d+\.\d% with it on these images, which it was fitted on,"
        r" \d+\.\d% cross-validated( \(worse, kept since --calibrate was given\))?;"
        r" nothing rejected",
        lines[10],
    )
    assert len(Bundle.open("bundle").prompt.facts.labels) == len(list((pocket.IMAGES / "train").iterdir()))
    assert [p.name for p in tmp_path.iterdir() if p.name != "runs"] == ["bundle"]
    stages = [line.removeprefix("export: ") for line in result.stderr.splitlines() if line.startswith("export: ")]
    begun = ["starting", "loading", "reading", "tracing", "tracing", "writing", "proving", "comparing", "fitting"]
    assert [stage.split()[0] for stage in stages] == [*begun, "writing"]


def test_a_latest_run_that_changes_while_it_is_exported_is_read_whole(run, other_run, tmp_path, monkeypatch):
    """A training that ends meanwhile points runs/latest to its own run: prompt and results stay of one."""
    link = tmp_path / "runs" / "latest"
    link.parent.mkdir()
    link.symlink_to(run)

    def load_and_move(folder):
        loaded = load_run(folder)
        link.unlink()
        link.symlink_to(other_run)
        return loaded

    def stop(model, path, labels, images, options, progress):
        raise FailedError(f"{len(labels)} labels, results of {[row['classes'] for row in options.card.accuracy]}")

    monkeypatch.setattr("attri.train.training.checkpoint.load_run", load_and_move)
    monkeypatch.setattr("attri.export.onnx.export_bundle", stop)
    classes = len(load_run(run).classes)
    rows = [classes for part in ("test", "val") if part in json.loads((run / "results.json").read_text())]
    assert classes != len(load_run(other_run).classes)
    assert export("--no-calibrate").stderr.splitlines()[-1] == f"error: {classes} labels, results of {rows}"


def test_results_of_another_training_are_not_put_beside_a_prompt(run, other_run, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(run / "prompt.safetensors", mixed)
    shutil.copy(other_run / "results.json", mixed)
    result = export(mixed)
    assert result.exit_code == 1
    said = f"error: the results in {mixed} are of another training than its prompt: export it again"
    assert result.stderr.splitlines()[-1] == said
    assert not (tmp_path / "bundle").exists()


def test_int8_says_on_stderr_what_it_does_and_on_stdout_what_came_out(run):
    data = pocket.IMAGES / "val"
    result = export(run, "--int8", "--calibration-data", data, "--parity-images", 16, "--min-top1", 0.8)
    assert result.exit_code == 0, result.output
    assert "int8: 52 calibration images" in result.stderr
    assert "52 images, 100 are wanted" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[2].startswith("image features, U8S8")
    assert lines[12].startswith("bundle  bundle  int8")
    assert re.fullmatch(r"int8    text.onnx  U8S8, 9\d.\d% of its initializers", lines[13])
    assert [lines[18].split(":")[0], len(lines)] == ["scores  independent (--independent)", 19]


@pytest.fixture(scope="module")
def folder_run(run, photos, tmp_path_factory):
    """A folder per class with five real images each, and what was trained on it, but with the prompts of `run`."""

    def copy(root):
        for file in sorted(photos.rglob("*.png")):
            (root / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file.parent.name / f"{file.parent.parent.name}-{file.name}")

    root = made_once(tmp_path_factory, "own-photos", copy)
    tensors, _ = load_tensors(run / "prompt.safetensors")
    return root, trained(tmp_path_factory, "own-run", read_data(root), POOL_OF_4, tensors=tensors)


def test_int8_is_fitted_on_the_run_s_own_images_and_compared_on_those_held_out(folder_run):
    root, run = folder_run
    result = export(run, "--int8", "--calibration-data", root, "--min-top1", 0.5, "--min-retrieved", 0.5)
    assert result.exit_code == 0, result.output
    assert "int8: 20 calibration images" in result.stderr
    assert Bundle.open("bundle").manifest.parity["images"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8", "--calibration-data", "nowhere"], "nowhere: no such folder"),
        (["--int8", "--calibration-data", "labels.txt"], "labels.txt: is a file, not a folder"),
        (
            ["--int8", "--calibration-data", "judged", "--parity-data", "judged"],
            "only images of the parity check",
        ),
        (["--labels", "nowhere.txt"], "nowhere.txt"),
        (["--opset", "16"], "opset is 16"),
        (["--output", "precious"], "precious exists and is not a bundle"),
        (["--int8", "--calibration-data", "judged", "--int8-target", "0.5"], "is below the gate"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_model_is_loaded(
    folder_run, arguments, message, tmp_path, monkeypatch, image_files
):
    monkeypatch.setattr("attri.export.cli.load_trained_model", None)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    (tmp_path / "judged").mkdir()
    for file in image_files[:2]:
        shutil.copy(file, tmp_path / "judged" / file.name)
    result = export(folder_run[1], *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr.splitlines()[-1]


def test_an_existing_bundle_is_replaced_whole(run, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "bundle")
    (tmp_path / "bundle" / "engines").mkdir()
    (tmp_path / "bundle" / "engines" / "stray.plan").write_text("of the old bundle")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert export(run, "--labels", "labels.txt", *BRIEFLY).exit_code == 0
    bundle = Bundle.open("bundle")
    assert bundle.prompt.facts.labels == ["cat", "dog"]
    assert {file.name for file in bundle.path.iterdir()} == {"manifest.json", "prompt.attri", *bundle.manifest.files}


def test_a_prompt_alone_is_made_for_a_bundle(run, exported):
    result = export(run, "--prompt-only", "--base", exported, "--keep-features", *BRIEFLY)
    assert result.exit_code == 0, result.output
    kept, written = result.stdout.splitlines()[-2:]
    assert re.fullmatch(r"kept    features of 24 training images, 0\.\d\d MB of the prompt", kept)
    assert re.fullmatch(rf"prompt  prompt.attri  \d+\.\d\d MB  for {exported}", written)
    prompt = Prompt.read("prompt.attri")
    assert prompt.facts.labels == load_run(run).classes
    prompt.require_fit(Bundle.open(exported).manifest.base)
    found = json.loads((run / "results.json").read_text())["pool_entries"]  # one pool for all blocks
    names = [[[row["name"] for row in entry] for entry in block] for block in found]
    assert prompt.facts.attracts == names * prompt.tensors["keys"].shape[0]
    assert prompt.facts.attracts == Bundle.open(exported).prompt.facts.attracts


def test_the_training_images_of_a_bundle_are_near_to_themselves(exported):
    learned = read_data(pocket.IMAGES, shots=1)
    page = (exported / "report.html").read_text()
    assert "keeps image features of 24 training images" in page
    with Classifier.load(exported, device="cpu", threads=1) as classifier:
        for image in learned.train[:4]:
            first, second, third = classifier(image.path).nearest_images()
            assert first.image == f"train/{image.path.parent.name}/{image.path.name}"
            assert first.label == learned.classes[image.target]
            assert 0.999 < first.cosine < 1.001  # of float16
            assert first.cosine > second.cosine >= third.cosine


def test_a_run_that_does_not_say_what_it_learned_cannot_keep_it(run, exported, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "training_images.csv").unlink()
    result = export("old", "--prompt-only", "--base", exported, "--keep-features", *BRIEFLY)
    assert result.exit_code == 2
    assert "does not say which images it was trained on" in result.stderr.splitlines()[-1]


def test_plain_clip_as_a_prompt(exported, photos, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    given = ("--labels", "labels.txt", "--parity-data", photos, "--output", "plain.attri")
    result = CliRunner().invoke(main, list(map(str, ["--zero-shot", "--prompt-only", "--base", exported, *given])))
    assert result.exit_code == 0, result.output
    facts = Prompt.read("plain.attri").facts
    assert (facts.selection, facts.labels) == ("none", ["cat", "dog"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-only"], "name it with --base"),
        (["--base", "b"], "add --prompt-only"),
        (["--prompt-only", "--base", "b", "--fp16", "--opset", "17"], "leave out --fp16, --opset"),
        (["--zero-shot"], "give --labels and --parity-data"),
        (["--model", "pocket", "--pretrained", "x"], "--model and --pretrained without --zero-shot"),
        (["r", "--zero-shot", "--labels", "l", "--parity-data", "d"], "leave out RUN"),
        (["--zero-shot", "--labels", "l", "--parity-data", "d", "--calibrate"], "leave its scores"),
        (["--zero-shot", "--labels", "l", "--parity-data", "d", "--keep-features"], "leave out --keep-features"),
    ],
)
def test_options_of_prompts_that_make_no_sense(arguments, message):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_trt_without_tensorrt_keeps_the_finished_bundle(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = export(run, "--trt", *BRIEFLY)
    assert result.exit_code == 1
    assert "\nbundle  bundle  fp32" in result.stdout
    wanted = "the bundle bundle is finished and stays: copy it to the device and run there: attri-export bundle --trt"
    assert wanted in result.stderr.splitlines()[-1]
    Bundle.open("bundle")


NUMBERS = ["--int8-target", "--min-cosine", "--min-retrieved", "--min-top1", "--false-accepts", "--false-rejects"]
OURS = '{"schema": 1, "attri": "0.1", "files": {"vision.onnx": {}}}'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"mine.txt": "precious"}, "exists and is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": '{"name": "an extension of a browser"}'}, "is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": '{"schema": 1}'}, "is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": "[1]"}, "is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": OURS, "vision.onnx": ""}, "holds mine.txt, which is not part of"),
        (
            {"notes/mine.txt": "precious", "manifest.json": OURS},
            "holds notes/mine.txt, which is not part of the bundle",
        ),
    ],
)
def test_other_folders_are_not_overwritten(run, tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_text(text)
    result = export(run, "--output", "photos")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: photos ")
    assert said in result.stderr
    assert "choose another --output" in result.stderr
    assert next((tmp_path / "photos").rglob("mine.txt")).read_text() == "precious"


def test_a_bundle_of_another_schema_may_be_replaced(tmp_path):
    (tmp_path / "engines").mkdir()
    for name in ("engines/a.plan", "vision.onnx", "manifest.json"):
        (tmp_path / name).write_text(OURS)
    check_target(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no trained prompt in runs/latest: run attri-train first"),
        (["bundel", "--trt"], 2, "in bundel: run attri-train first, or name a bundle to build its engines"),
        *(([option, "nan"], 2, "nan is not a number") for option in NUMBERS),
        (["--opset", "x"], 2, "'x' is not a valid integer"),
        (["--fb16"], 2, "--fp16"),  # the nearest one
        (["--false-accepts", "0.1"], 2, "images that show none of the labels: name them with --negatives"),
        (["--negatives", ".", "--false-rejects", "0.1"], 2, "two ways to a threshold: choose one"),
        (["--no-calibrate", "--validation-data", "."], 2, "uses no validation images"),
        (["--negatives", "."], 2, "error: . holds no images: --negatives is a folder"),
        (["--validation-data", "nowhere"], 2, "nowhere: no such folder"),
        (["--false-rejects", "0.1", "--labels", "labels.txt"], 2, "leave --labels out"),
    ],
)
def test_wrong_usage(arguments, code, message, run, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    confidence = any(option in " ".join(arguments) for option in ("false", "negatives", "validation"))
    result = export(*([run] if confidence else []), *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda meta, tensors: meta["prompt"].update(colour=1), 2, "is of another version of attri, or damaged (.*col"),
        (lambda meta, tensors: meta.pop("train"), 2, "is of another version of attri, or damaged ('train'): train ag"),
        (lambda meta, tensors: meta.update(backbone=[]), 2, "is of another version of attri, or damaged"),
        (lambda meta, tensors: meta.update(train=None), 2, "is of another version of attri, or damaged"),
        (lambda meta, tensors: meta.update(format=2), 2, "has format 2, this attri reads 1: update attri"),
        (
            lambda meta, tensors: tensors.update(keys=tensors["keys"][:, :3]),
            1,
            "do not fit its settings, it is damaged",
        ),
    ],
)
def test_a_run_of_another_version_is_one_line(run, tmp_path, change, code, said):
    tensors, meta = load_tensors(run / "prompt.safetensors")
    change(meta, tensors)
    save_tensors(tmp_path / "prompt.safetensors", tensors, meta)
    result = export(tmp_path, "--parity-data", pocket.IMAGES, "--no-calibrate")
    assert result.exit_code == code, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert re.search(re.escape(said).replace(r"\.\*", ".*"), line)


def test_metadata_that_is_no_object_is_one_line(tmp_path):
    save_tensors(tmp_path / "prompt.safetensors", {}, [])  # type: ignore[arg-type]  # no dict
    result = export(tmp_path)
    assert result.exit_code == 2
    assert "is of another version of attri, or damaged" in result.stderr


BARE = """
import sys
for name in ("torch", "onnx", "onnxruntime", "open_clip", "safetensors"):
    sys.modules[name] = None
from attri.export.cli import main
main(["bundel", "--trt"])
"""


def test_a_mistyped_bundle_on_a_device_is_not_a_missing_torch(tmp_path):
    done = subprocess.run([sys.executable, "-c", BARE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no trained prompt in bundel: run attri-train first, or name a bundle")


@pytest.mark.parametrize("opset", ["16", "19"])
def test_an_opset_that_cannot_be_is_refused_with_the_lowest_that_can(run, tmp_path, opset):
    result = export(run, "--opset", opset)
    assert result.exit_code == 2
    wanted = f"opset is {opset}: these graphs are written at 17 or 18, the lowest that works is 17"
    assert result.stderr.splitlines()[-1] == f"error: {wanted}"
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == []


def test_a_threshold_for_none_of_these_reaches_the_frames(run, tmp_path, image_files):
    (tmp_path / "others").mkdir()
    for number, image in enumerate(image_files[:10]):
        shutil.copy(image, tmp_path / "others" / f"{number}.png")
    result = export(run, "--negatives", "others", "--false-accepts", 0.2)
    assert result.exit_code == 0, result.output
    facts = Bundle.open("bundle").prompt.facts
    said = rf"; rejected below {facts.threshold:.4f}, \d+\.\d% of 256 images of the labels are"
    assert re.search(said, result.stdout)
    frames = [json.loads(line) for line in classify("others")]
    assert sum(frame["label"] is not None for frame in frames) == 2
    assert all((frame["score"] >= facts.threshold) == (frame["label"] is not None) for frame in frames)
    assert all(json.loads(line)["label"] for line in classify("others", "--threshold", "0"))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    said = "the bundle's threshold is for its own labels and not applied to others: give --threshold"
    assert all(json.loads(line)["label"] for line in classify("others", "--labels", "labels.txt", says=said))
    assert not any(json.loads(line)["label"] for line in classify("others", "--labels", "labels.txt", "--threshold", 1))
    (tmp_path / "labels.txt").write_text("\n".join(reversed(facts.labels)))
    again = [json.loads(line)["label"] for line in classify("others", "--labels", "labels.txt")]
    assert again == [frame["label"] for frame in frames]


def classify(*arguments, says=None):
    result = CliRunner().invoke(attri_run, [*map(str, arguments), "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "threshold" in line] == ([] if says is None else [says])
    return result.stdout.splitlines()


def test_without_validation_images_scores_stay_as_they_are_and_it_is_said(other_run):
    result = export(other_run)
    assert result.exit_code == 0, result.output
    said = "scores are not calibrated: .* has 0 validation images that can be used, 50 are needed"
    assert re.search(said + "; name images with --validation-data\n", result.stderr)
    said = "scores  not calibrated: photos has 0 validation images that can be used, 50 are needed; nothing rejected"
    assert result.stdout.splitlines()[-1] == said  # without the path, which stderr has
    assert Bundle.open("bundle").prompt.facts.temperature == 1
    asked = export(other_run, "--calibrate")
    assert (asked.exit_code, asked.stderr.splitlines()[-1][:7]) == (2, "error: ")


def test_a_bundle_that_is_exported_again_says_what_the_new_prompt_says(exported, other_run, tmp_path, image_files):
    shutil.copytree(exported, tmp_path / "bundle")
    before = Classifier.load("bundle", labels=load_run(other_run).classes, device="cpu")
    first = before(image_files[3]).probabilities
    assert export(other_run, *BRIEFLY).exit_code == 0
    bundle = Bundle.open("bundle")
    assert bundle.prompt.entries == 16
    after = Classifier.load("bundle", device="cpu")
    assert after.labels == before.labels
    assert np.abs(after(image_files[3]).probabilities - first).max() > 1e-4
    assert np.array_equal(before(image_files[3]).probabilities, first)  # one that runs keeps what it has
    report = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    assert bundle.manifest.files["vision.onnx"]["sha256"] in report


def test_gates_set_by_hand_do_not_look_like_the_usual_ones(run, tmp_path):
    result = export(run, "--min-cosine", "0.5", "--parity-images", 4, "--no-calibrate")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("4 images, 24 labels, gates set by hand")
    assert [line.endswith("held, usually 0.99999") for line in lines[1:7]] == [False, True, False, True, False, False]
    page = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    assert "all 5 gates held, 2 of them set by hand" in page
    assert page.count("worst at least 0.5 <strong>set by hand, usually 0.99999</strong>") == 2
    stages = Bundle.open("bundle").manifest.parity["stages"]
    assert [(s["gate"], s["usual"]) for s in stages[1:3]] == [(0.5, 0.99999), (0.999, 0.999)]


def test_a_table_with_a_missing_image_says_so(run, tmp_path):
    (tmp_path / "table.csv").write_text("path,label\nnone.png,cat\nnone2.png,dog\n")
    result = export(run, "--parity-data", "table.csv")
    assert result.exit_code == 2
    assert "none.png" in result.stderr


def test_missing_parity_data_and_a_missed_gate(run, tmp_path):
    result = export(run, "--parity-data", "nowhere")
    assert result.exit_code == 2
    assert "nowhere: no such folder; name one with images for the parity check as --parity-data" in result.stderr
    result = export(run, "--fp16", "--min-cosine", "1", *BRIEFLY)
    assert result.exit_code == 1
    assert "the bundle does not agree with the PyTorch model: image features is " in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_killed_export_leaves_nothing_that_looks_finished(run, exported, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HALF_WAY, str(exported / "vision.onnx"), str(run)], cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob(".bundle.*/vision.onnx")) or process.poll() is not None, 300)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # and did not fail
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle.*/manifest.json"))
    assert export(run, *BRIEFLY).exit_code == 0
    Bundle.open("bundle")
    assert not list(tmp_path.glob(".bundle.*"))


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = export(run, "--output", "file/bundle")
    assert result.exit_code == 1
    assert re.search("error: cannot write to .*file: ", result.stderr)
