"""attri-doctor on this machine, and on machines that lack things."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from support.manifests import edit_manifest

from attri.runtime.bundle import MANIFEST
from attri.runtime.capture import v4l2
from attri.runtime.cli import doctor
from attri.runtime.cli.doctor import MISSING, OK, Choice, Finding, choose, main
from attri.runtime.engines.tensorrt import load
from attri.runtime.errors import MissingExtra


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Iterator:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def ask(*words: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(words), prog_name="attri-doctor")
        return stop.value.code, *capsys.readouterr()

    yield ask
    root.handlers[:] = handlers
    root.setLevel(level)


def test_this_machine(ask, bundle: Path) -> None:
    code, out, err = ask("--json", "--bundle", str(bundle))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"attri", "python", "would_use", "findings"}
    assert found["would_use"]["backend"] in ("onnxruntime", "tensorrt")
    state = {each["name"]: each for each in found["findings"]}
    assert state["ONNX Runtime"]["state"] == "ok"
    assert state[str(bundle)]["value"].endswith("fp32, 3 labels, verified, and agrees with the model")
    assert all(each["advice"] for each in found["findings"] if each["state"] != "ok")
    code, out, _ = ask("--bundle", str(bundle))
    assert code == 0
    assert out.splitlines()[-1].startswith("attri-run would use ")
    for each in found["findings"]:
        assert each["name"] in out


def test_no_bundle_says_how_to_get_one(ask, tmp_path: Path) -> None:
    code, out, _ = ask("--bundle", str(tmp_path / "gone"))
    assert code == 0
    assert "run attri-export" in out


def test_a_damaged_bundle_is_a_failure(ask, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "text.onnx").write_bytes(b"torn")
    code, out, _ = ask("--bundle", str(copy))
    assert code == 1
    assert "text.onnx" in out


def test_a_manifest_that_was_edited_is_a_failure(ask, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    raw = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(raw | {"logit_scale": 7.0}))
    code, out, _ = ask("--bundle", str(copy))
    assert code == 1
    assert "manifest.json is not the one that was exported" in out


def test_a_bundle_that_gives_other_answers_is_a_failure(ask, bundle: Path, tmp_path: Path) -> None:
    """Every hash is right, as after a forgery: the reference images tell."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    edit_manifest(copy, lambda raw: raw["image"].update(mean=[0.1, 0.2, 0.3]))
    code, out, _ = ask("--bundle", str(copy))
    assert code == 1
    assert "verified, but ONNX Runtime" in out
    assert "does not agree with the PyTorch model: image features of vision.onnx is" in out


@pytest.mark.parametrize(
    ("tensorrt", "cuda", "providers", "choice"),
    [
        (True, OK, ["CUDA", "CPU"], ("tensorrt", "cuda")),
        (False, OK, ["CUDA", "CPU"], ("onnxruntime", "cuda")),
        (False, OK, ["CPU"], ("onnxruntime", "cpu")),
        (False, MISSING, ["CUDA", "CPU"], ("onnxruntime", "cpu")),
        (False, MISSING, [], (None, None)),
        (True, OK, [], ("tensorrt", "cuda")),
    ],
)
def test_what_would_be_used(
    monkeypatch: pytest.MonkeyPatch, tensorrt: bool, cuda: str, providers: list[str], choice: tuple
) -> None:
    def find_tensorrt() -> SimpleNamespace:
        if not tensorrt:
            raise MissingExtra("tensorrt")
        return SimpleNamespace(machine="TensorRT 10.3 on Orin")

    monkeypatch.setattr(load, "find_tensorrt", find_tensorrt)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [f"{p}ExecutionProvider" for p in providers])
    found = [Finding("", "CUDA", cuda, ""), Finding("", "ONNX Runtime", OK if providers else MISSING, "")]
    chosen = choose(found)
    assert (chosen.backend, chosen.device) == choice
    assert chosen.why.startswith(
        "TensorRT 10.3 on Orin" if tensorrt else "no TensorRT here (tensorrt is not installed)"
    )


WHY_NOTHING = "no TensorRT here (tensorrt is not installed), and there is no ONNX Runtime: nothing runs graphs"


def test_a_machine_with_nothing() -> None:
    """No package beyond the three that the runtime stands on: every line still comes, with advice, and exit code 1."""
    gone = ["onnxruntime", "tensorrt", "av", "cv2", "paho", "prometheus_client", "starlette", "uvicorn"]
    block = f"import sys; sys.modules.update(dict.fromkeys({gone}))"
    code = f"{block}; from attri.runtime.cli.doctor import main; main(['--json'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, "")
    found = json.loads(run.stdout)
    assert found["would_use"] == {"backend": None, "device": None, "why": WHY_NOTHING}
    missing = {each["name"]: each["advice"] for each in found["findings"] if each["state"] == "missing"}
    assert {"ONNX Runtime", "OpenCV", "av", "paho-mqtt", "prometheus-client", "starlette", "uvicorn"} <= set(missing)
    assert all("pip install 'attri[" in missing[name] for name in ("ONNX Runtime", "av", "uvicorn", "OpenCV"))


def test_a_package_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libcublas.so.12: cannot open shared object file\nand more")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    broken = "broken: libcublas.so.12: cannot open shared object file"
    assert doctor.package_version("onnxruntime", "onnxruntime") == broken
    (runtime, *_) = doctor.CHECKS["engines"](Path())
    assert (runtime.state, runtime.advice) == (MISSING, "pip install --force-reinstall onnxruntime")


def test_cameras_with_their_identities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask) -> None:
    """Each name that attri-run takes; a node for metadata is no camera."""
    dev, facts = tmp_path / "dev", tmp_path / "sys/class/video4linux"
    for number in (0, 1, 10):
        (facts / f"video{number}").mkdir(parents=True)
        (facts / f"video{number}/name").write_text("HD Pro Webcam C920\n" if number < 10 else "Other\n")
        (facts / f"video{number}/index").write_text(f"{number % 10}\n")
    links = [
        dev / "v4l/by-id/usb-046d_C920_1234-video-index0",
        dev / "v4l/by-path/pci-0000:00:14.0-usb-0:3:1.0-video-0",
    ]
    for link in links:
        link.parent.mkdir(parents=True)
        link.symlink_to("../../video0")
    for number in (0, 1, 10):
        (dev / f"video{number}").touch()
    monkeypatch.setattr(v4l2, "DEV", dev)
    monkeypatch.setattr(v4l2, "SYS", tmp_path / "sys")
    found = {each["name"]: each for each in json.loads(ask("--json")[1])["findings"] if each["group"] == "sources"}
    assert found[f"{dev}/video0"]["value"] == f"camera0 (HD Pro Webcam C920), {links[0]}, {links[1]}"
    assert found[f"{dev}/video10"]["value"] == "camera10 (Other)"
    assert f"{dev}/video1" not in found


def test_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
    }
    monkeypatch.setattr(doctor, "read_text", lambda path: texts.get(str(path), ""))
    (jetson,) = [each for each in doctor.CHECKS["machine"](Path()) if each.name == "Jetson"]
    assert jetson.value == "NVIDIA Jetson Orin Nano Developer Kit, R36 (release), REVISION: 4.3"


def test_the_report_is_for_a_person() -> None:
    found = [Finding("engines", "ONNX Runtime", OK, "1.2"), Finding("engines", "TensorRT", MISSING, "gone", "do this")]
    lines = doctor.report(found, Choice("onnxruntime", "cpu", "why not")).splitlines()
    assert lines[1:] == [
        "",
        "engines",
        "  ok  ONNX Runtime  1.2",
        "  --  TensorRT      gone",
        "                    -> do this",
        "",
        "attri-run would use onnxruntime on cpu: why not",
    ]
