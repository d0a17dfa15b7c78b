"""The tests for a device run to their end, on the stand-in; what they find out there, only a device shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_they_pass_on_the_stand_in(bundle, cudart_file, tmp_path):
    environment = os.environ | {
        "ATTRI_BUNDLE": str(bundle),
        "ATTRI_CUDART": str(cudart_file),
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "as_gpu",
        "-p",
        "no:cacheprovider",
        HERE / "test_gpu.py",
        "-v",
    ]
    # The command is a process of its own, which has no stand-in.
    options = ["-k", "not the_command", "--basetemp", tmp_path / "pytest"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stdout
    assert re.search(r" \d+ passed, 1 deselected", done.stdout), done.stdout
