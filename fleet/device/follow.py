"""attri-run beside its updates: one process watches over both, so that neither can take the other down.

A new prompt is taken over by the running attri-run by itself, between two frames. A release with other graphs starts it
again. Until a release has proved itself it is on probation: where attri-run then ends twice, or what it counts of its
results is out of bounds, the release before comes back.
"""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attri.fleet.device.probation import Probation
from attri.fleet.device.state import State
from attri.fleet.device.store import Store, live_folder, open_store
from attri.fleet.device.together import together
from attri.fleet.device.trial import Trial
from attri.fleet.device.update import begin
from attri.fleet.release import Release
from attri.runtime._util.signals import defer_signals
from attri.runtime.bundle import PROMPT
from attri.runtime.cli.follow import FOLLOWED

_LOGGER = logging.getLogger("attri")
Received = Callable[[], int | None]  # the number of a signal that came
_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Following:
    """How a device follows its channel.

    Attributes:
        store: of this device.
        update: command that fetches, checks and activates what is new, on probation.
        command: what runs the bundle.
        interval: seconds between updates, about.
        probation: what a release has to keep to before it is committed.
        restart: whether a release with other graphs starts the command again, or waits for its next start.
        report: is told when a release was committed or rolled back.
    """

    store: Path
    update: Sequence[str]
    command: Sequence[str]
    interval: float
    probation: Probation
    restart: bool
    report: Callable[[Store], None] = lambda _: None


def follow(following: Following) -> int:
    """Run the command, and update what it runs, until it ends.

    Returns:
        Its exit code; or that of the first update, where there is nothing to run.
    """
    with defer_signals(restore_on_first=False) as received:
        if _state(following).current is None:
            first = _ended(_start(following, following.update, quiet=True), received)
            if first or received() or _state(following).current is None:
                return first or 1
        while True:
            with open_store(following.store) as store:
                before = store.state.current
                begin(store)
                if store.state.current != before:
                    following.report(store)
            code = _watch(following, received)
            failed = code not in (None, 0) and _state(following).trying is not None
            if received() or not (failed or code is None):
                return code or 0
            _LOGGER.warning("starting again%s", f": it ended with {code} on probation" if failed else "")


def _watch(following: Following, received: Received) -> int | None:
    """Start the command and keep it up to date.

    Returns:
        Its exit code; None where it was stopped, to be started with other graphs.
    """
    state = _state(following)
    trial, release = _trial(following, state), state.current
    process, update = _start(following, following.command), None
    due = time.monotonic() + following.interval * random.uniform(0.1, 1.0)  # many may have been switched on at once
    try:
        while process.poll() is None and not received():
            now = time.monotonic()
            if update is not None and update.poll() is not None:
                update, due = None, now + following.interval * random.uniform(0.8, 1.2)
            elif update is None and trial is None and now > due:
                update = _start(following, following.update, quiet=True)
            elif trial is not None and trial.end(following.report):
                trial = None
            if update is None and (state := _state(following)).current != release:
                before, release = release, state.current
                trial = _trial(following, state)
                if not _same_graphs(before, release):
                    if following.restart:
                        return None
                    _LOGGER.info("other graphs: they run from the next start on")
                    due, trial = math.inf, None  # what does not run yet proves nothing
            time.sleep(_POLL)
        return _ended(process, received)
    finally:
        for each in (process, update):
            if each is not None and each.poll() is None:
                each.terminate()
                each.wait()


def _trial(following: Following, state: State) -> Trial | None:
    """The probation of what runs; None where it is on none."""
    return Trial(following.store, following.probation) if state.trying is not None else None


def _start(following: Following, command: Sequence[str], *, quiet: bool = False) -> subprocess.Popen[bytes]:
    """A process of its own session, since signals of a terminal come to it through this one, and it dies with it."""
    variables = {**os.environ, FOLLOWED: str(live_folder(following.store).folder.absolute())}
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(together(command), stdout=output, env=variables, start_new_session=True)


def _ended(process: subprocess.Popen[bytes], received: Received) -> int:
    """Wait for the end, pass a signal on, and return the exit code as a shell has it."""
    while process.poll() is None:
        if number := received():
            process.send_signal(number)
            process.wait()
        time.sleep(_POLL / 4)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _same_graphs(before: Release | None, after: Release | None) -> bool:
    """Whether only the prompt is another."""
    files = [{name: entry for name, entry in each.files.items() if name != PROMPT} for each in (before, after) if each]
    return len(files) == 2 and files[0] == files[1]


def _state(following: Following) -> State:
    return Store(following.store).state
