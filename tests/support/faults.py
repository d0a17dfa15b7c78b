"""A fault at each step of an update in turn: SIGKILL, or a full disk, at the n-th call that changes the disk.

    python faults.py kill|full REPOSITORY STORE

Each round begins with a device that runs the first release, and takes over the second with a fault at step n. Then
what `current` leads to must be a whole release, the first or the second; and the next update, without a fault, must
commit the second and leave nothing behind. It ends with the first n that is not reached, and prints how many there
were. A process of one thread, so that it can be forked: that takes milliseconds where a start takes seconds.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from support.fleet import content, root_of

from attri.fleet.device import trust, update
from attri.fleet.device.bounded import Bounds
from attri.fleet.device.check import Check
from attri.fleet.device.store import Store, open_store
from attri.runtime.errors import FailedError

assert trust  # imported here, and not anew in each round
CALLS = ("fsync", "replace", "rename", "link", "symlink", "unlink", "mkdir", "rmdir")
FAULT = 9  # exit code of a round that ended with FailedError


def inject(kind: str, step: int) -> None:
    """Let the n-th of these calls fail, before it does anything."""
    counter = itertools.count(1)

    def hooked(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = next(counter)
            if kind == "kill" and number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            # A full disk stays full; what frees or only renames works.
            if kind == "full" and number >= step and name in ("fsync", "mkdir", "symlink", "link"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args, **kwargs)

        return call

    for name in CALLS:  # Python 3.10's pathlib has its own references to some
        setattr(os, name, hooked(name, getattr(os, name)))


def run(repository: Path, store: Path) -> None:
    """An update, whose check says yes."""
    answers = ['{"stage": "built"}', '{"stage": "checked", "figures": {}}']
    setattr(update.Bundle, "open", lambda path: nullcontext())  # noqa: B010
    setattr(update, "run_bounded", lambda *_: iter(answers))  # noqa: B010
    with open_store(store) as opened:
        if update.pull(opened, str(repository), "stable", root_of(repository), "device"):
            update.verify(opened, Check(), Bounds(1 << 40, 60.0))
            update.activate(opened)


def in_child(work: Callable[[], None]) -> int:
    """Status of a forked process."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except FailedError:
            os._exit(FAULT)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def names(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def main(kind: str, repository: Path, first: Path) -> None:
    setattr(os, "fsync", lambda _: None)  # noqa: B010  # the real one is slow, and a kill loses nothing that is written
    wanted = {"first": content(first / "current")}
    done = first.with_name("done")
    shutil.copytree(first, done, symlinks=True)
    run(repository, done)
    wanted["second"] = content(done / "current")
    assert wanted["first"] != wanted["second"]
    for step in itertools.count(1):
        store = first.with_name(f"{kind}-{step}")
        shutil.copytree(first, store, symlinks=True)

        def faulty(step: int = step, store: Path = store) -> None:
            inject(kind, step)
            run(repository, store)

        status = in_child(faulty)
        assert content(store / "current") in wanted.values(), f"{kind} at {step} leaves half a release"
        if status == 0:
            break
        assert os.WIFSIGNALED(status) if kind == "kill" else os.WEXITSTATUS(status) == FAULT, (step, status)
        Store(store)  # can be read
        run(repository, store)
        assert content(store / "current") == wanted["second"], step
        state = Store(store).state
        assert state.update is not None
        assert state.update.stage == "committed"
        assert names(store) == names(done), "something is left over"
        shutil.rmtree(store)
    print(step - 1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
