"""The sources that a command line and a sources file ask for, and the labels files of all of them."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attri.runtime.capture.parse import find_sources, unused_options
from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import RegionSpec, SourceSpec
from attri.runtime.cli.sources.options import Inputs
from attri.runtime.cli.sources.tasks import check_prompts, with_tasks
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile

_ATTEMPTS = 5  # to read files that belong together


def read_inputs(
    words: tuple[str, ...], inputs: Inputs, labels: Path | None
) -> tuple[list[SourceSpec], dict[Path, LabelsFile]]:
    """Read the sources that were asked for and the labels files of all of them, as they were at one moment.

    A folder that is replaced meanwhile (a link that is turned to a new version) would give the sources of one version
    with the labels of the other: then all files are read again.

    Prompt files of tasks are read too, to see that they can be used.

    Raises:
        UsageError: The sources cannot be used, or their file is still changing after some attempts.
        LabelsError: A labels file cannot be used.
        BundleError: A prompt file cannot be used.
    """
    for _ in range(_ATTEMPTS):
        before = _version(inputs.sources)
        try:
            specs = find_inputs(words, inputs)
            files = read_labels_files(specs, labels)
            check_prompts(specs)
        except UsageError:
            if _version(inputs.sources) == before:
                raise
            continue
        if _version(inputs.sources) == before:
            return specs, files
    raise UsageError(f"{inputs.sources} changes while it is read: start again when it is written")


def _version(path: Path | None) -> object:
    """What tells one version of a file from another; None for a pipe, which can be read only once, or no file."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def find_inputs(words: tuple[str, ...], inputs: Inputs) -> list[SourceSpec]:
    """Find the sources that were asked for; all of the sources file, where none is named.

    Raises:
        UsageError: There is no such source, or none that takes an option that was given.
    """
    named = read_sources(inputs.sources) if inputs.sources else {}
    if not words and not named:
        raise UsageError("name a SOURCE: camera0, rtsp://..., a video, an image, a folder; or give --sources")
    specs = find_sources(words or tuple(named), named, inputs.options, inputs.watch)
    specs = with_tasks(_with_regions(specs, inputs), inputs.tasks)
    if message := next(_unused(specs, inputs), None):
        raise UsageError(message)
    names = Counter(name for spec in specs for name in spec.part_names)
    if twice := [name for name, number in names.items() if number > 1]:
        raise UsageError(f"a source and a region are both called {twice[0]}: rename one")
    return specs


def _with_regions(specs: Sequence[SourceSpec], inputs: Inputs) -> list[SourceSpec]:
    """Give regions to all sources that have none of their own. Raises UsageError."""
    regions = inputs.regions
    takers = [spec for spec in specs if "roi" in spec.options]
    if regions and not takers:
        raise UsageError("--roi: none of the sources takes it")
    if (
        takers
        and (regions or inputs.options.roi)
        and all(spec.regions or (regions and spec.input.roi) for spec in takers)
    ):
        raise UsageError("--roi: every source has regions of its own")
    return [with_default_regions(spec, regions) for spec in specs]


def with_default_regions(spec: SourceSpec, regions: tuple[RegionSpec, ...]) -> SourceSpec:
    """A source with these regions, if it takes any and has none of its own."""
    whole = spec.regions or spec.input.roi or "roi" not in spec.options
    return spec if whole else replace(spec, regions=regions)


def _unused(specs: Sequence[SourceSpec], inputs: Inputs) -> Iterator[str]:
    """What to say of options that none of the sources takes."""
    if unused := sorted(option.flag for option in unused_options(specs, inputs.options)):
        yield f"{', '.join(unused)}: none of the sources takes it"
    if inputs.watch and not any(spec.kind == "watch" for spec in specs):
        yield "--watch: name a folder"
    retried = {"--max-retries": inputs.max_retries, "--wait": inputs.wait or None}
    for given, used in (
        ({"--freeze-timeout": inputs.freeze_timeout}, any(spec.live for spec in specs)),
        (retried, any(spec.retried for spec in specs)),
    ):
        if (unused := [flag for flag, value in given.items() if value is not None]) and not used:
            yield f"{', '.join(unused)}: none of the sources is a camera or stream"
    if inputs.gather and sum(spec.live for spec in specs) < 2:
        yield "--gather: there are no two cameras or streams whose frames could wait for each other"
    if inputs.options.motion_max_age is not None and not any(motion for spec in specs for motion in spec.motions):
        yield "--motion-max-age is for --motion: give that too"
    over_time = {"--smooth": inputs.smooth, "--majority": inputs.majority - 1, "--min-duration": inputs.min_duration}
    if (unused := [flag for flag, value in over_time.items() if value]) and not any(s.sequential for s in specs):
        yield f"{', '.join(unused)}: none of the sources takes it, an image says nothing of the next"
    if inputs.smooth > 0 and inputs.majority > 1:
        yield "--smooth and --majority are two ways to one end: give one of them"


def read_labels_files(
    specs: Sequence[SourceSpec], labels: Path | None, known: Mapping[Path, LabelsFile] | None = None
) -> dict[Path, LabelsFile]:
    """Read the labels files of all sources, each once: a pipe can be read only once.

    Args:
        specs: The sources.
        labels: The labels file of sources that have none of their own.
        known: Files that were read before; of these the pipes are taken from here.

    Raises:
        LabelsError: A file cannot be used.
    """
    own = [task.labels for spec in specs for tasks in spec.asked for task in tasks]
    paths = dict.fromkeys([labels, *(spec.labels for spec in specs), *own])
    pipes = {path: file for path, file in (known or {}).items() if file.state is None}
    return {path: pipes.get(path) or LabelsFile.read(path) for path in paths if path is not None}
