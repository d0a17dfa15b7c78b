"""attri-export as a person meets it: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from attri.export.cli import main, sample
from attri.runtime.bundle import Bundle
from attri.train import pocket
from attri.train.backbone import load_backbone
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fit import fit

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    data = read_data(pocket.IMAGES, shots=1)
    return fit(data, load_backbone(), PromptConfig(pool_size=4), TrainConfig(epochs=1, views=1, shots=1), folder)


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
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "image features",
        "retrieved entries",
        "text features",
        "top-1",
    ]
    assert all(line.endswith("held") for line in lines[1:5])
    assert lines[5].startswith("bundle  bundle  fp16")
    assert re.fullmatch(
        r"fp16    text.onnx  99.\d% of its initializers, \d\d.\d% of its tensors, greatest magnitude \d+ of 65504",
        lines[6],
    )
    assert lines[7].startswith("fp16    vision.onnx  9")
    assert len(Bundle.open("bundle").manifest.labels) == len(list((pocket.IMAGES / "train").iterdir()))
    assert [p.name for p in tmp_path.iterdir() if p.name != "runs"] == ["bundle"]


def test_int8_says_on_stderr_what_it_does_and_on_stdout_what_came_out(run):
    data = pocket.IMAGES / "val"
    result = export(run, "--int8", "--calibration-data", data, "--parity-pictures", 16, "--min-top1", 0.8)
    assert result.exit_code == 0, result.output
    assert "int8: 52 calibration pictures" in result.stderr
    assert "52 pictures, 100 are wanted" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[1].startswith("image features, U8S8")
    assert lines[9].startswith("bundle  bundle  int8")
    assert re.fullmatch(r"int8    text.onnx  U8S8, 9\d.\d% of its initializers", lines[10])
    assert len(lines) == 14


def test_an_existing_bundle_is_replaced_whole(run, tmp_path):
    assert export(run).exit_code == 0
    (tmp_path / "bundle" / "stray.txt").write_text("of the old bundle")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert export(run, "--labels", "labels.txt").exit_code == 0
    assert Bundle.open("bundle").manifest.labels == ["cat", "dog"]
    assert not (tmp_path / "bundle" / "stray.txt").exists()


def test_trt_without_tensorrt_keeps_the_finished_bundle(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = export(run, "--trt")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[5].startswith("bundle  bundle  fp32")
    wanted = "the bundle bundle is finished and stays: copy it to the device and run there: attri-export bundle --trt"
    assert wanted in result.stderr.splitlines()[-1]
    Bundle.open("bundle")


def test_other_folders_are_not_overwritten(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    result = export(run, "--output", "photos")
    assert result.exit_code == 2
    assert result.stderr == "error: photos exists and is not a bundle: choose another --output, or remove it\n"
    assert (tmp_path / "photos" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no trained prompt in runs/latest: run attri-train first"),
        (["--opset", "9"], 2, "'9' is not one of '17', '18'"),
        (["--fb16"], 2, "--fp16"),  # the nearest one
    ],
)
def test_wrong_usage(arguments, code, message):
    result = export(*arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


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
