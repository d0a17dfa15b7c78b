"""A process with bounds on memory and time: whatever happens in it, nobody else pays for it.

The bound is on memory that is used (resident), not on addresses: CUDA reserves far more of these than it uses.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attri.runtime.errors import RefusedError

_PAGE = resource.getpagesize()
POLL = 0.05  # seconds between looks at the memory


@dataclass(frozen=True)
class Bounds:
    """What a process may take.

    Attributes:
        memory: bytes, resident.
        seconds: until it has to be done.
    """

    memory: int
    seconds: float


def run_bounded(command: Sequence[str], bounds: Bounds) -> Iterator[str]:
    """Run a command, and yield the lines of its stdout as they come; its stderr is ours.

    Raises:
        RefusedError: it took too much, crashed, or failed.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        guard = _Guard(process, bounds)
        try:
            assert process.stdout is not None
            yield from process.stdout
            process.wait()
        finally:
            process.kill()  # where the caller has stopped listening
            guard.join()
    if guard.reason:
        raise RefusedError(guard.reason)
    if process.returncode < 0:
        raise RefusedError(f"its check was ended by {signal.Signals(-process.returncode).name}")
    if process.returncode:
        raise RefusedError(f"its check failed with exit code {process.returncode}")


class _Guard(threading.Thread):
    """Kills a process that takes more than it may."""

    def __init__(self, process: subprocess.Popen[str], bounds: Bounds) -> None:
        super().__init__(daemon=True)
        self.reason = ""
        self._process, self._bounds = process, bounds
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        while self._process.poll() is None and not self.reason:
            if _resident(self._process.pid) > self._bounds.memory:
                self.reason = f"its check took more than {self._bounds.memory >> 20} MB of memory"
            elif time.monotonic() - began > self._bounds.seconds:
                self.reason = f"its check took longer than {self._bounds.seconds:.0f} seconds"
            else:
                time.sleep(POLL)
        if self.reason:
            self._process.kill()


def _resident(pid: int) -> int:
    """Bytes of memory that a process uses; 0 of one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
