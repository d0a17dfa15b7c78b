"""attri-doctor on this machine, and on machines that lack things."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attri.runtime import doctor
from attri.runtime.doctor import MISSING, OK, Choice, Finding, choose, main


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Iterator:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def ask(*words: str) -> tuple[int, str, str]:
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
    assert state[str(bundle)]["value"].endswith("fp32, 3 labels, verified")
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


def finding(name: str, state: str, value: str = "") -> Finding:
    return Finding("", name, state, value)


@pytest.mark.parametrize(
    ("tensorrt", "cuda", "runtime", "choice"),
    [
        (OK, OK, "1.2, with CUDA, CPU", ("tensorrt", "cuda")),
        (OK, MISSING, "1.2, with CPU", ("onnxruntime", "cpu")),
        (MISSING, OK, "1.2, with CUDA, CPU", ("onnxruntime", "cuda")),
        (MISSING, OK, "1.2, with CPU", ("onnxruntime", "cpu")),
        (MISSING, MISSING, "1.2, with CUDA, CPU", ("onnxruntime", "cpu")),
        (MISSING, MISSING, None, (None, None)),
        (OK, OK, None, ("tensorrt", "cuda")),
    ],
)
def test_what_would_be_used(tensorrt: str, cuda: str, runtime: str | None, choice: tuple) -> None:
    found = [finding("TensorRT", tensorrt), finding("CUDA", cuda)]
    found.append(finding("ONNX Runtime", OK if runtime else MISSING, runtime or ""))
    assert (choose(found).backend, choose(found).device) == choice


def test_a_machine_with_nothing() -> None:
    """No package beyond the three that the runtime stands on: every line still comes, with advice, and exit code 1."""
    gone = ["onnxruntime", "tensorrt", "av", "cv2", "paho", "prometheus_client", "starlette", "uvicorn"]
    block = f"import sys; sys.modules.update(dict.fromkeys({gone}))"
    code = f"{block}; from attri.runtime.doctor import main; main(['--json'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, "")
    found = json.loads(run.stdout)
    assert found["would_use"] == {"backend": None, "device": None, "why": "there is nothing that runs graphs"}
    missing = {each["name"]: each["advice"] for each in found["findings"] if each["state"] == "missing"}
    assert {"ONNX Runtime", "OpenCV", "av", "paho-mqtt", "prometheus-client", "starlette", "uvicorn"} <= set(missing)
    assert all("pip install 'attri[" in missing[name] for name in ("ONNX Runtime", "av", "uvicorn", "OpenCV"))


def test_a_package_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libcublas.so.12: cannot open shared object file\nand more")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    assert doctor._package("onnxruntime", "onnxruntime") == "broken: libcublas.so.12: cannot open shared object file"
    (runtime, *_) = doctor._engines(Path())
    assert (runtime.state, runtime.advice) == (MISSING, "pip install --force-reinstall onnxruntime")


def test_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
    }
    monkeypatch.setattr(doctor, "_text", lambda path: texts.get(path, ""))
    (jetson,) = [each for each in doctor._machine(Path()) if each.name == "Jetson"]
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
