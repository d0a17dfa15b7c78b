"""The methods by name. Each is a function from a Task to a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.accuracy.methods import coop, frozen, linear_probe, prompted, tip_adapter
from benchmarks.accuracy.methods.task import Classifier, Task

__all__ = ["METHODS", "Classifier", "Method", "Task"]


@dataclass(frozen=True)
class Method:
    """A method and what it can do.

    Attributes:
        fit: trains it.
        seeded: its result depends on the seed or on the training images.
        names_classes: it can tell classes apart that it was not trained on, from their names.
    """

    fit: Callable[[Task], Classifier]
    seeded: bool = True
    names_classes: bool = True


METHODS = {
    "zero-shot": Method(frozen.zero_shot, seeded=False),
    "ensemble": Method(frozen.ensemble, seeded=False),
    "linear-probe": Method(linear_probe.linear_probe, names_classes=False),
    "tip-adapter": Method(tip_adapter.tip_adapter),
    "coop": Method(coop.coop),
    "deep": Method(prompted.deep),
    "attri-ce": Method(prompted.attri_ce),
    "promptsrc": Method(prompted.promptsrc),
    "static": Method(prompted.static),
    "attriprompt": Method(prompted.attriprompt),
}
