"""Options of attri-bundle about the check of a release, in one table, and their values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from attri.fleet.cli.options import PATH, Percent, as_one
from attri.fleet.device.bounded import Bounds
from attri.fleet.device.check import Check
from attri.fleet.device.shadow import Shadow
from attri.runtime._util.system import memory
from attri.runtime.cli.command import CHECK, option
from attri.runtime.cli.model_options import OPTIONS as MODEL
from attri.runtime.cli.model_options import TEMPLATE
from attri.runtime.engines.onnxruntime import Device
from attri.runtime.engines.select import Backend
from attri.runtime.errors import UsageError

AVAILABLE = 0.8  # of the memory that is available
CHECKS = {  # by the fields of `Checks`
    "backend": MODEL["backend"],
    "device": MODEL["device"],
    "threads": option(CHECK, "--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads."),
    "labels": option(CHECK, "--labels", type=PATH, help="Labels of this device. [the prompt's own]"),
    "template": TEMPLATE,
    "threshold": MODEL["threshold"],
    "independent": MODEL["independent"],
    "shortlist": MODEL["shortlist"],
    "prompts": option(
        CHECK, "--prompt", "prompts", type=PATH, multiple=True, help="Prompt file of a task, to fit; may be repeated."
    ),
    "golden": option(CHECK, "--golden", type=PATH, help="Folder of golden images, LABEL/*.jpg."),
    "tolerance": option(
        CHECK,
        "--tolerance",
        type=Percent(),
        default=0.0,
        metavar="PERCENT",
        help="Share of the golden images by which it may be worse than what runs. [0%]",
    ),
    "max_latency": option(CHECK, "--max-latency", type=click.FloatRange(0), help="Milliseconds an image may take."),
    "shadow": option(
        CHECK,
        "--shadow",
        type=click.IntRange(1),
        help="Live frames of the running attri-run that it classifies beside what runs. [none]",
    ),
    "min_agreement": option(
        CHECK,
        "--min-agreement",
        type=Percent(),
        metavar="PERCENT",
        help="Share of these that have to get the same label. [90%]",
    ),
    "shadow_seconds": option(
        CHECK, "--shadow-seconds", type=click.FloatRange(0.1), help="Seconds within which they have to come. [600]"
    ),
    "max_memory": option(
        CHECK, "--max-memory", type=click.IntRange(1), help="MB that the check may take. [80% of what is available]"
    ),
    "max_seconds": option(
        CHECK,
        "--max-seconds",
        type=click.FloatRange(0.1),
        default=1800.0,
        show_default=True,
        help="Seconds that it may take, with the build of engines.",
    ),
}


@dataclass(frozen=True)
class Checks:
    """Values of the options about the check, see there.

    Raises:
        UsageError: one would do nothing.
    """

    backend: Backend
    device: Device
    threads: int
    labels: Path | None
    template: str | None
    threshold: float | None
    independent: bool
    shortlist: int | None
    prompts: tuple[Path, ...]
    golden: Path | None
    tolerance: float
    max_latency: float | None
    shadow: int | None
    min_agreement: float | None
    shadow_seconds: float | None
    max_memory: int | None
    max_seconds: float

    def __post_init__(self) -> None:
        if self.shadow is None and (self.min_agreement, self.shadow_seconds) != (None, None):
            raise UsageError("`min_agreement` and `shadow_seconds` are for `shadow`: give that too")

    @property
    def check(self) -> Check:
        """What a release has to show."""
        labels, golden = (str(path.absolute()) if path else None for path in (self.labels, self.golden))
        prompts = tuple(str(path.absolute()) for path in self.prompts)
        asked = (labels, self.template, self.threshold, self.independent, self.shortlist, prompts)
        return Check(self.backend, self.device, self.threads, *asked, golden, self.tolerance, self.max_latency)

    @property
    def in_shadow(self) -> Shadow | None:
        """What it has to show on live frames; None is nothing."""
        if self.shadow is None:
            return None
        agreement = Shadow.min_agreement if self.min_agreement is None else self.min_agreement
        return Shadow(self.shadow, self.shadow_seconds or Shadow.seconds, agreement)

    @property
    def bounds(self) -> Bounds:
        """On its process."""
        found = memory()
        available = int(found.available * AVAILABLE) if found else 1 << 40
        return Bounds(self.max_memory << 20 if self.max_memory else available, self.max_seconds)


check_options = as_one("checks", Checks, *CHECKS.values())
