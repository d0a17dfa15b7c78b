"""attri-export as a person meets it: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from attri.export.cli import main, sample
from attri.export.writer import check_target
from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.cli import main as attri_run
from attri.train import pocket
from attri.train.backbone import load_backbone
from attri.train.checkpoint import load_run
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fit import fit

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    data = read_data(pocket.IMAGES, shots=1)
    return fit(
        data, load_backbone(), PromptConfig(pool_size=4), TrainConfig(epochs=1, views=1, shots=1), folder, latest=False
    )


@pytest.fixture(scope="module")
def other_run(photos, tmp_path_factory):
    """Five classes, and no picture that is neither trained on nor tested."""
    folder = tmp_path_factory.mktemp("other") / "run"
    return fit(
        read_data(photos),
        load_backbone(),
        PromptConfig(pool_size=3),
        TrainConfig(epochs=1, views=1),
        folder,
        latest=False,
    )


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def export(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_bundle_and_its_parity_table(run, tmp_path):
    result = export(run, "--fp16")
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
        r"scores  temperature \d\.\d+ from 256 validation pictures and training pictures that --shots left out,"
        r" calibration error \d+\.\d% without, \d+\.\d% with it; nothing rejected",
        lines[10],
    )
    assert len(Bundle.open("bundle").manifest.labels) == len(list((pocket.IMAGES / "train").iterdir()))
    assert [p.name for p in tmp_path.iterdir() if p.name != "runs"] == ["bundle"]


def test_int8_says_on_stderr_what_it_does_and_on_stdout_what_came_out(run):
    data = pocket.IMAGES / "val"
    result = export(run, "--int8", "--calibration-data", data, "--parity-pictures", 16, "--min-top1", 0.8)
    assert result.exit_code == 0, result.output
    assert "int8: 52 calibration pictures" in result.stderr
    assert "52 pictures, 100 are wanted" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[2].startswith("image features, U8S8")
    assert lines[12].startswith("bundle  bundle  int8")
    assert re.fullmatch(r"int8    text.onnx  U8S8, 9\d.\d% of its initializers", lines[13])
    assert len(lines) == 18


def test_an_existing_bundle_is_replaced_whole(run, tmp_path):
    assert export(run).exit_code == 0
    (tmp_path / "bundle" / "engines").mkdir()
    (tmp_path / "bundle" / "engines" / "stray.plan").write_text("of the old bundle")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert export(run, "--labels", "labels.txt").exit_code == 0
    bundle = Bundle.open("bundle")
    assert bundle.manifest.labels == ["cat", "dog"]
    assert {file.name for file in bundle.path.iterdir()} == {"manifest.json", *bundle.manifest.files}


def test_trt_without_tensorrt_keeps_the_finished_bundle(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = export(run, "--trt")
    assert result.exit_code == 1
    assert "\nbundle  bundle  fp32" in result.stdout
    wanted = "the bundle bundle is finished and stays: copy it to the device and run there: attri-export bundle --trt"
    assert wanted in result.stderr.splitlines()[-1]
    Bundle.open("bundle")


OURS = '{"schema": 1, "attri": "0.1", "files": {"vision.onnx": {}}}'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"mine.txt": "precious"}, "exists and is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": '{"name": "an extension of a browser"}'}, "is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": '{"schema": 1}'}, "is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": "[1]"}, "is not a bundle"),
        ({"mine.txt": "precious", "manifest.json": OURS, "vision.onnx": ""}, "holds mine.txt, which is not of the"),
        ({"notes/mine.txt": "precious", "manifest.json": OURS}, "holds notes/mine.txt, which is not of the bundle"),
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
        (["--opset", "x"], 2, "'x' is not a valid integer"),
        (["--fb16"], 2, "--fp16"),  # the nearest one
        (["--false-accepts", "0.1"], 2, "pictures that show none of the labels: name them, --negatives"),
        (["--negatives", ".", "--false-rejects", "0.1"], 2, "two ways to a threshold: choose one"),
        (["--no-calibrate", "--validation-data", "."], 2, "leaves validation pictures out"),
        (["--negatives", "."], 2, "error: . holds no pictures: --negatives is a folder"),
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


@pytest.mark.parametrize("opset", ["16", "19"])
def test_an_opset_that_cannot_be_is_refused_with_the_lowest_that_can(run, tmp_path, opset):
    result = export(run, "--opset", opset)
    assert result.exit_code == 2
    wanted = f"opset is {opset}: these graphs are written at 17 or 18, the lowest that works is 17"
    assert result.stderr.splitlines()[-1] == f"error: {wanted}"
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == []


def test_a_threshold_for_none_of_these_reaches_the_frames(run, tmp_path, picture_files):
    (tmp_path / "others").mkdir()
    for number, picture in enumerate(picture_files[:10]):
        shutil.copy(picture, tmp_path / "others" / f"{number}.png")
    result = export(run, "--negatives", "others", "--false-accepts", 0.2)
    assert result.exit_code == 0, result.output
    manifest = Bundle.open("bundle").manifest
    assert result.stdout.splitlines()[-1].endswith(f"; rejected below {manifest.threshold:.4f}")
    frames = [json.loads(line) for line in classify("others")]
    assert sum(frame["label"] is not None for frame in frames) == 2
    assert all((frame["score"] >= manifest.threshold) == (frame["label"] is not None) for frame in frames)
    assert all(json.loads(line)["label"] for line in classify("others", "--threshold", "0"))


def classify(*arguments):
    result = CliRunner().invoke(attri_run, [*arguments, "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_without_validation_pictures_scores_stay_as_they_are_and_it_is_said(other_run):
    result = export(other_run)
    assert result.exit_code == 0, result.output
    said = "scores are not calibrated: .* has 0 validation pictures that can be used, 50 are needed"
    assert re.search(said + "; name pictures with --validation-data\n", result.stderr)
    assert result.stdout.splitlines()[-1] == "scores  not calibrated; nothing rejected"
    assert Bundle.open("bundle").manifest.temperature == 1
    asked = export(other_run, "--calibrate")
    assert (asked.exit_code, asked.stderr.splitlines()[-1][:7]) == (2, "error: ")


def test_a_bundle_that_is_exported_again_says_what_the_new_prompt_says(run, other_run, tmp_path, picture_files):
    (tmp_path / "labels.txt").write_text("\n".join(load_run(other_run).classes))
    assert export(run, "--labels", "labels.txt").exit_code == 0
    before = Classifier.load("bundle", device="cpu")
    first = before(picture_files[3]).probabilities
    assert export(other_run).exit_code == 0
    bundle = Bundle.open("bundle")
    assert bundle.manifest.retrieval["pool_size"] == 3
    after = Classifier.load("bundle", device="cpu")
    assert after.labels == before.labels
    assert np.abs(after(picture_files[3]).probabilities - first).max() > 1e-4
    assert np.array_equal(before(picture_files[3]).probabilities, first)  # one that runs keeps what it has
    report = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    assert bundle.manifest.files["vision.onnx"]["sha256"] in report


def test_missing_parity_data_and_a_missed_gate(run, tmp_path):
    result = export(run, "--parity-data", "nowhere")
    assert result.exit_code == 2
    assert "nowhere: no such folder; name pictures for the parity check with --parity-data" in result.stderr
    result = export(run, "--fp16", "--min-cosine", "1")
    assert result.exit_code == 1
    assert "the bundle does not agree with the PyTorch model: image features is 0.99999" in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_killed_export_leaves_nothing_that_looks_finished(run, tmp_path):
    command = [sys.executable, "-m", "attri.export.cli", str(run)]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".bundle.*/vision.onnx")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle.*/manifest.json"))
    assert export(run).exit_code == 0
    Bundle.open("bundle")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_one_line(run, tmp_path):
    tmp_path.chmod(0o500)
    result = export(run)
    tmp_path.chmod(0o700)
    assert result.exit_code == 1
    assert "cannot write to" in result.stderr


def test_the_sample_is_even_over_the_folder():
    pictures = sample(pocket.IMAGES, 25)
    assert len({p.parent.name for p in pictures}) > 20
    assert all("test" in p.parts for p in pictures)
