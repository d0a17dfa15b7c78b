"""A process that ends with its parent, even where that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.peers import wait_for

from attri.fleet.device.together import together


def test_what_was_started_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess; subprocess.run({together([sys.executable, '-S', '-c', child])!r})"
    with subprocess.Popen([sys.executable, "-S", "-c", parent]) as process:
        wait_for(lambda: note.exists() and note.read_text())
        pid = note.read_text()
        process.kill()
    wait_for(lambda: not Path("/proc", pid).exists() or "\nState:\tZ" in Path("/proc", pid, "status").read_text())


def test_the_command_is_what_runs() -> None:
    done = subprocess.run(together(["sh", "-c", "echo $0 $1; exit 7", "a", "b"]), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "a b\n")
