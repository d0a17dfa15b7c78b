"""Where results go: the options that say so, and the sinks that they open."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import click

from attri.runtime.result import Control, Sink


@dataclass(frozen=True)
class Outputs:
    """The values of the options below, by their names."""

    topk: int = 1
    as_json: bool = False
    quiet: bool = False


OPTIONS = [
    click.option("--topk", type=click.IntRange(1), default=1, show_default=True, help="Labels to print per frame."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object per frame."),
    click.option("--quiet", is_flag=True, help="Nothing on stdout."),
]


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options above; its function gets them as one argument, `outputs`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outputs = Outputs(**{field.name: kwargs.pop(field.name) for field in fields(Outputs)})
        return command(*args, outputs=outputs, **kwargs)

    for option in reversed(OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def open_sinks(outputs: Outputs, control: Control) -> list[Sink]:
    """The sinks that were asked for, ready to take results; close them all, in any order.

    Raises:
        FailedError, MissingExtra, UsageError: one cannot be opened; those opened before it are closed.
    """
    from attri.runtime.sinks import Console

    sinks: list[Sink] = []
    if not outputs.quiet:
        sinks.append(Console("json" if outputs.as_json else "text", outputs.topk))
    return sinks
