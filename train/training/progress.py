"""Progress on stderr: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich
from rich.console import Console

from attri.runtime._util.wording import plural


class Progress:
    """Progress bars and messages; `quiet` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.live = sys.stderr.isatty() and not quiet

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], object]]:
        """Show the progress of `total` images; yields advance(count)."""
        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
        with rich.Progress(*columns, rich.TimeRemainingColumn(), console=self.console, disable=not self.live) as bar:
            task = bar.add_task(f"{what:<8}", total=total)
            yield lambda count: bar.advance(task, count)
        if not self.live:
            self.console.print(f"{what}: {plural(total, 'image')}", highlight=False)

    @contextmanager
    def training(self, total: int, done: int) -> Iterator[Callable[[dict[str, float]], object]]:
        """Show the progress of training; yields step(record), to be called with each step's loss and accuracy."""
        text = rich.TextColumn("{task.description} loss {task.fields[loss]:.3f} accuracy {task.fields[accuracy]:.1%}")
        columns = (text, rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
        with rich.Progress(*columns, console=self.console, disable=not self.live) as bar:
            task = bar.add_task("train   ", total=total, completed=done, loss=float("nan"), accuracy=float("nan"))
            position, smooth = done, dict.fromkeys(("loss", "accuracy"), float("nan"))

            def step(record: dict[str, float]) -> None:
                nonlocal position
                position += 1
                for name, value in smooth.items():
                    smooth[name] = record[name] if value != value else 0.9 * value + 0.1 * record[name]
                bar.update(task, completed=position, loss=smooth["loss"], accuracy=smooth["accuracy"])
                if not self.live and (position == total or position % max(1, total // 10) == 0):
                    now = f"loss {smooth['loss']:.3f}  accuracy {smooth['accuracy']:.1%}"
                    self.console.print(f"train: step {position}/{total}  {now}", highlight=False)

            yield step
