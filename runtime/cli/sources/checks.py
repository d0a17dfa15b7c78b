"""Whether sources and outputs go together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attri.runtime.capture.spec import SourceSpec
from attri.runtime.cli.sources.options import Inputs
from attri.runtime.errors import UsageError

_LOGGER = logging.getLogger("attri")


def check_frigate(specs: Sequence[SourceSpec], mqtt: str | None) -> None:
    """Check that what Frigate detects can be classified and answered.

    Args:
        specs: The sources.
        mqtt: The broker of --mqtt.

    Raises:
        UsageError: Nothing says which broker Frigate publishes to, or there would be several labels for an object.
    """
    for spec in specs:
        if spec.kind == "frigate" and mqtt is None:
            raise UsageError(f"{spec.name}: give the broker that Frigate publishes to, --mqtt mqtt://[USER@]HOST")
        if spec.kind == "frigate" and len(spec.tasks) > 1:
            raise UsageError(
                f"{spec.name}: an object has one sub label, so one task is asked, and not {len(spec.tasks)}"
            )


def check_compare(specs: Sequence[SourceSpec], inputs: Inputs) -> None:
    """Check that --compare has something to compare.

    Raises:
        UsageError: A source has fewer than two tasks, or not every frame is a result.
    """
    if alone := next((spec.name for spec in specs if any(len(tasks) < 2 for tasks in spec.asked)), None):
        raise UsageError(f"--compare: {alone} has no two tasks to compare: give --task twice or more")
    if inputs.on_change or inputs.min_interval:
        raise UsageError("--compare looks at every frame: leave out --on-change and --min-interval")


def check_explain(specs: Sequence[SourceSpec]) -> None:
    """Check that what --explain writes comes to an end.

    Raises:
        UsageError: A source has none.
    """
    if endless := next((spec.name for spec in specs if spec.live or spec.kind in ("watch", "frigate")), None):
        raise UsageError(f"--explain is for images and videos, {endless} has no end: look at it on the page (--serve)")


def check_regions(specs: Sequence[SourceSpec]) -> None:
    """Check that --collect-regions-only leaves something to collect, and say of which sources it does not.

    Raises:
        UsageError: No source has a region.
    """
    whole = [spec.name for spec in specs if None in spec.rois]
    if len(whole) == len(specs):
        raise UsageError("--collect-regions-only: no source has a region, so nothing would be collected: give --roi")
    for name in whole:
        _LOGGER.info("%s has no region of interest: nothing of it is collected", name)
