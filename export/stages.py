"""The stages of an export as a person sees them on stderr: a spinner on a terminal, a line per stage in a log."""

from __future__ import annotations

import sys
from types import TracebackType

from rich import progress as rich
from rich.console import Console


class Stages:
    """Names the stage at work, with the time since it began where stderr is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = sys.stderr.isatty()
        columns = (rich.SpinnerColumn(), rich.TextColumn("{task.description}", markup=False), rich.TimeElapsedColumn())
        self._bar = rich.Progress(*columns, console=self._console, disable=not self._live, transient=True)

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, title: str) -> None:
        """The stage before has ended; this one is at work until the next begins."""
        if not self._live:
            self.say(f"export: {title}")
            return
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(title, total=None)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
