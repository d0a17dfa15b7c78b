"""The tests for a device run to their end, on the stand-in; what they find out there, only a device shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
# What a Jetson has beside the base install is pytest: a package of the tests' environment that is there all the same
# would hide an import that fails on the device.
GONE = ["torch", "torchvision", "open_clip", "onnx", "onnxruntime", "onnxscript", "safetensors", "hypothesis"]
GONE += ["tensorrt", "tensorrt_rtx", "cv2", "av"]


def test_they_pass_on_the_stand_in(bundle, cudart_file, tmp_path):
    environment = os.environ | {
        "ATTRI_BUNDLE": str(bundle),
        "ATTRI_CUDART": str(cudart_file),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "support.tensorrt.as_gpu",
        "-p",
        "no:cacheprovider",
        str(HERE / "test_gpu.py"),
        "-v",
    ]
    # The command is a process of its own, which has no stand-in.
    options = ["-k", "not the_command", "--basetemp", str(tmp_path / "pytest")]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert re.search(r" \d+ passed, 1 deselected", done.stdout), done.stdout


def test_the_documented_line_collects_on_a_device(tmp_path):
    page = (ROOT / "docs/howto/jetson/README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    pytest (-m gpu [^#\n]*)", page, re.MULTILINE)
    code = f"import sys; sys.modules.update(dict.fromkeys({GONE})); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        code,
        *line.split(),
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "pytest"),
    ]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins are packages of this environment too
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ skipped", done.stdout, re.MULTILINE), done.stdout
    assert " error" not in done.stdout
