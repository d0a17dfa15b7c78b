"""A process that takes too much, crashes or fails costs one line, and nothing else."""

from __future__ import annotations

import sys

import pytest

from attri.fleet.device.bounded import Bounds, run_bounded
from attri.runtime.errors import RefusedError

MUCH = Bounds(1 << 40, 60.0)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_lines_come_as_they_are_written() -> None:
    lines = run_bounded(python("print('a', flush=True); print('b', flush=True)"), MUCH)
    assert list(lines) == ["a\n", "b\n"]


@pytest.mark.parametrize(
    ("code", "bounds", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", MUCH, "ended by SIGSEGV"),
        ("import os; os.abort()", MUCH, "ended by SIGABRT"),
        ("raise SystemExit(3)", MUCH, "exit code 3"),
        ("import time; time.sleep(60)", Bounds(1 << 40, 0.3), "longer than 0 seconds"),
        ("while True: pass", Bounds(1 << 40, 0.3), "longer than 0 seconds"),
        ("x = b'x' * (1 << 28)\nwhile True: pass", Bounds(100 << 20, 60.0), "more than 100 MB"),
    ],
    ids=["crash", "abort", "failure", "sleep", "loop", "memory"],
)
def test_what_goes_wrong_is_a_reason_to_refuse(code: str, bounds: Bounds, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        list(run_bounded(python(code), bounds))


def test_who_stops_listening_ends_it() -> None:
    for line in run_bounded(python("print('a', flush=True)\nwhile True: pass"), MUCH):
        assert line == "a\n"
        break
