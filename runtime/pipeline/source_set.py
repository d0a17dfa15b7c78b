"""Sources that come and go while the pipeline runs: what is wanted, by their file or by requests, and what there is."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from attri.runtime._util.redact import redact
from attri.runtime.capture.reader import Reader
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.deliver.sink import FileOrigin, RegionsAbout
from attri.runtime.errors import AttriError, LabelsError, UsageError
from attri.runtime.pipeline.channel import Channel
from attri.runtime.pipeline.regions import edited_regions, with_regions
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.pipeline.watched_file import WatchedFile

_LOGGER = logging.getLogger("attri")


class PlannedSource(NamedTuple):
    """A source that is to be classified.

    Attributes:
        spec: What it is.
        tasks: Of each region of it, or of the whole frame.
    """

    spec: SourceSpec
    tasks: Sequence[Sequence[TaskSetup]]


@dataclass(frozen=True)
class RunningSource:
    """A source of a pipeline.

    Attributes:
        number: In the frame queue; never given to another one.
        reader: Reads it.
        spec: What it is.
        channels: Of each region of it, or of the whole frame.
    """

    number: int
    reader: Reader
    spec: SourceSpec
    channels: tuple[Channel, ...]

    def reads(self, spec: SourceSpec) -> bool:
        """Whether its reader, as it is, gives the frames of this source too, which differs in regions at most."""
        own, other = (replace(each, regions=(), input=replace(each.input, roi=None)) for each in (self.spec, spec))
        return own == other and self.reader.state not in ("ended", "dead")

    def counts(self) -> Counter[str]:
        """Of the summary: frames, those that were held, predictions, and those whose text features were cached."""
        return Counter(
            frames=max(each.frames for each in self.channels),
            held=max(each.held for each in self.channels),
            asked=sum((each.frames - each.held) * len(each.tasks) for each in self.channels),
            hits=sum(each.hits for each in self.channels),
        )

    def plan(self, *, paused: bool) -> PlannedSource:
        """The same source, with the labels and prompts that it has now, paused or not."""
        return PlannedSource(replace(self.spec, paused=paused), [each.setups() for each in self.channels])


Changes = Mapping[str, PlannedSource | None]  # by names; None is to go


class SourcePlans(Protocol):
    """How sources are found, with the checks of the command line."""

    @property
    def file(self) -> Path | None:
        """The sources file, if there is one that may change."""
        ...

    def specs_of_file(self) -> dict[str, SourceSpec]:
        """Read the file again; the sources of it that were asked for, by name. Raises AttriError."""
        ...

    def spec_of_table(self, name: str, table: object) -> SourceSpec:
        """The source of a table of the sources file that somebody sends. Raises UsageError."""
        ...

    def plan(self, specs: Sequence[SourceSpec]) -> list[PlannedSource]:
        """Read labels and prompts of these sources. Raises AttriError."""
        ...


class LiveSources:
    """Changes the sources of a pipeline when their file changes, or by request.

    Args:
        plans: Finds sources.
        running: The sources that there are, by name.
        change: Changes them, or raises AttriError and changes nothing.
    """

    def __init__(
        self,
        plans: SourcePlans,
        running: Callable[[], Mapping[str, RunningSource]],
        change: Callable[[Changes], None],
    ) -> None:
        self._plans, self._running, self._change = plans, running, change
        self._changing = threading.Lock()  # from the look at what runs to the change of it
        self._watched = None if plans.file is None else WatchedFile(plans.file)
        self._of_file = {name: running()[name].spec for name in plans.specs_of_file() if name in running()}

    def regions(self, name: str) -> RegionsAbout:
        """What is known of the regions of a source. Raises LabelsError: there is no such source."""
        source = self._found(name)
        image = source.reader.newest
        return RegionsAbout({region.name: region.roi for region in source.spec.regions}, source.spec.input.roi, image)

    def set_regions(self, name: str, rois: Mapping[str, Any]) -> None:
        """Use these regions, by their names, with what is asked of those that there are; none is the whole frame.

        Raises:
            AttriError: There is no such source, or a region cannot be; nothing was changed.
        """
        with self._changing:
            source = self._found(name)
            spec = with_regions(source.spec, rois, source.reader.newest)
            (planned,) = self._plans.plan([spec])
            known = {None if each.region is None else each.region.name: each.setups() for each in source.channels}
            names: Sequence[str | None] = [region.name for region in spec.regions] or [None]
            tasks = [known.get(name) or known.get(None) or new for name, new in zip(names, planned.tasks, strict=True)]
            self._take([PlannedSource(spec, tasks)], [])

    def regions_origin(self, name: str) -> FileOrigin:
        """Whether the regions in use are those of the sources file. Raises LabelsError: there is no such source."""
        spec, there = self._found(name).spec, self._of_file.get(name)
        if self._watched is None or there is None:
            return FileOrigin(None, False, (name,))
        edited = (spec.regions, spec.input.roi) != (there.regions, there.input.roi)
        return FileOrigin(str(self._watched.path), edited, (name,))

    def write_regions(self, name: str) -> None:
        """Write the regions in use into the sources file, which keeps its comments.

        Raises:
            LabelsError: There is no such source.
            UsageError: It is not from the file, or the file must not be written.
            FailedError: The file cannot be written; it is as it was.
        """
        with self._changing:
            spec = self._found(name).spec
            if self._watched is None or name not in self._of_file:
                raise UsageError(f"{name} is not from a sources file, so there is none to write its regions to")
            self._watched.write(edited_regions(self._watched.path, spec))
            self._of_file = self._plans.specs_of_file()
        _LOGGER.info("%s: regions of %s written", self._watched.path, name)

    def _found(self, name: str) -> RunningSource:
        if name not in self._running():
            raise LabelsError(f"there is no source {name}")
        return self._running()[name]

    def poll(self) -> None:
        """Take over what the sources file says now, if it changed and keeps still; others are not touched."""
        if self._watched is None or self._watched.look() is None:
            return
        try:
            with self._changing:
                specs = self._plans.specs_of_file()
                changed = [spec for name, spec in specs.items() if self._of_file.get(name) != spec]
                gone = [name for name in self._of_file if name not in specs and name in self._running()]
                self._take(self._plans.plan(changed), gone)
                self._of_file = specs
        except AttriError as error:
            _LOGGER.warning("%s; the sources from before stay", redact(str(error)))

    def apply(self, tables: Mapping[str, Any]) -> None:
        """Add, replace, remove, pause or resume sources.

        Args:
            tables: By names: a table of the sources file; {"paused": true or false}; or None, to remove it.

        Raises:
            AttriError: One cannot be; nothing was changed.
        """
        with self._changing:
            self._apply(tables)

    def _apply(self, tables: Mapping[str, Any]) -> None:
        running, planned, specs = self._running(), [], []
        for name, table in tables.items():
            pauses = isinstance(table, dict) and [*table] == ["paused"]
            if (table is None or pauses) and name not in running:
                raise UsageError(f"there is no source {name}")
            if pauses and not isinstance(table["paused"], bool):
                raise UsageError(f"{name}.paused is true or false")
            if pauses and table["paused"] and not running[name].spec.retried:
                raise UsageError(f"{name} is no camera or stream: only those can be paused, and go on later")
            if pauses and running[name].spec.paused != table["paused"]:
                planned.append(running[name].plan(paused=table["paused"]))
            elif table is not None and not pauses:
                specs.append(self._plans.spec_of_table(name, table))
        self._take([*planned, *self._plans.plan(specs)], [name for name, table in tables.items() if table is None])

    def _take(self, planned: Sequence[PlannedSource], gone: Sequence[str]) -> None:
        if not planned and not gone:
            return
        before = self._running().keys()
        self._change({each.spec.name: each for each in planned} | dict.fromkeys(gone))
        names = [each.spec.name for each in planned]
        done = {
            "added": [name for name in names if name not in before],
            "changed": [name for name in names if name in before],
            "removed": gone,
        }
        _LOGGER.info("sources %s", "; ".join(f"{what}: {', '.join(each)}" for what, each in done.items() if each))
