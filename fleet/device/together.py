"""A process that ends with the one that started it, also where that is killed: nobody is left who holds a camera.

python together.py COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1  # prctl(2); it stays over exec


def together(command: Sequence[str]) -> list[str]:
    """A command that does the same, and ends with this process."""
    return [sys.executable, "-S", "-E", __file__, *command]


def die_with_parent() -> None:
    """Have the system send SIGTERM to this process when its parent ends, as far as it can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
