"""The probation of a release while it runs: it ends with the time, or with what attri-run counted of its results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from attri.fleet.device.probation import Probation, find_trouble, results_of
from attri.fleet.device.store import Store, open_store
from attri.fleet.device.update import commit, rollback
from attri.fleet.release import Release
from attri.runtime.bundle import PROMPT
from attri.runtime.errors import BundleError, FailedError
from attri.runtime.prompt import Prompt

_LOGGER = logging.getLogger("attri")


class Trial:
    """What a store has on probation, from now on.

    Args:
        store: of this device.
        probation: what the release has to keep to.
    """

    def __init__(self, store: Path, probation: Probation) -> None:
        self._folder, self._probation = store, probation
        self._began = time.monotonic()
        opened = Store(store)
        current, self._previous = opened.state.current, opened.state.previous
        self._release = current.name if current else ""
        self._prompts = _prompt_of(opened, current), _prompt_of(opened, self._previous)

    def end(self, report: Callable[[Store], None]) -> bool:
        """Commit the release or go back to the one before, if it is time; whether it was.

        Args:
            report: is told of it.
        """
        counts = Store(self._folder).live.counts()
        trouble = find_trouble(counts, self._release, *self._prompts, self._probation) if self._previous else None
        if trouble is None and time.monotonic() < self._began + self._probation.seconds:
            return False
        try:
            with open_store(self._folder) as store:
                if trouble is not None:
                    _LOGGER.warning("release %s goes back: %s", self._release, trouble)
                    rollback(store, trouble)
                else:
                    commit(store, self._probation.remark(results_of(counts, self._release, self._prompts[0])))
                report(store)
        except FailedError:  # somebody else is at work there: then later
            return False
        return True


def _prompt_of(store: Store, release: Release | None) -> str | None:
    """sha256 of the prompt of a release; None where it has none that can be read."""
    try:
        return Prompt.read(store.bundle(release) / PROMPT).digest if release else None
    except BundleError:
        return None
