"""Progress of an export on stderr: a spinner on a terminal, a line per stage in a log."""

from __future__ import annotations

import sys
from types import TracebackType

from rich import progress as rich
from rich.console import Console

__all__ = ["ConsoleProgress", "Progress"]


class Progress:
    """Receives the stages and the messages of an export; this one ignores them."""

    def begin(self, title: str) -> None:
        """Start a stage, which ends the one before it."""

    def say(self, line: str) -> None:
        """Report a line that is worth keeping."""


class ConsoleProgress(Progress):
    """Shows the current stage on stderr, with the time since it began where stderr is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = sys.stderr.isatty()
        columns = (rich.SpinnerColumn(), rich.TextColumn("{task.description}", markup=False), rich.TimeElapsedColumn())
        self._bar = rich.Progress(*columns, console=self._console, disable=not self._live, transient=True)

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, title: str) -> None:
        """Show a stage until the next one begins."""
        if not self._live:
            self.say(f"export: {title}")
            return
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(title, total=None)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
