"""A lock that is held by one process at a time, whatever the order in which they come and go."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading

from attri.runtime._util.filelock import try_lock, unlock, wait_for_lock

HOLD = """
import sys, pathlib
from attri.runtime._util.filelock import try_lock
lock = try_lock(pathlib.Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_holds_it_and_a_kill_releases_it(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "True\n"
        assert try_lock(path) is None
        holder.kill()
    lock = try_lock(path)
    assert lock is not None
    unlock(path, lock)
    assert not path.exists()


def test_a_file_that_was_removed_before_it_could_be_locked_is_made_anew(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    flock, calls = fcntl.flock, []

    def late(lock, how):
        if not calls:
            path.unlink()  # as its last holder does
        calls.append(how)
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = try_lock(path)
    assert lock is not None
    assert len(calls) == 2
    assert try_lock(path) is None
    unlock(path, lock)


def test_a_waiting_process_gets_the_lock_though_its_last_holder_removes_the_file(tmp_path):
    path = tmp_path / "lock"
    held, got = try_lock(path), []
    waiting = threading.Thread(target=lambda: got.append(wait_for_lock(path)), daemon=True)
    waiting.start()
    unlock(path, held)
    waiting.join(20)
    (lock,) = got
    assert try_lock(path) is None
    unlock(path, lock)
