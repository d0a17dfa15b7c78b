"""Sources that come while attri-run runs: found, checked and completed as those of its command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attri.runtime._util.printable import printable
from attri.runtime.capture.parse import find_sources
from attri.runtime.capture.sources_file import read_source, read_sources
from attri.runtime.capture.spec import KINDS, SourceKind, SourceSpec
from attri.runtime.classifier import Classifier
from attri.runtime.cli.sources.checks import check_regions
from attri.runtime.cli.sources.find import read_labels_files, with_default_regions
from attri.runtime.cli.sources.options import Inputs
from attri.runtime.cli.sources.pipeline import decision_rule
from attri.runtime.cli.sources.tasks import TaskSetups, check_prompts
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile
from attri.runtime.pipeline.source_set import PlannedSource

_LONGEST_NAME = 100
# Of what somebody sends. A pipeline or a file, of labels too, could do more on this machine than its sender may.
_SENT: tuple[SourceKind, ...] = ("v4l2", "csi", "stream", "frigate")
_REQUEST = Path("the request")


@dataclass(frozen=True)
class CommandPlans:
    """The SourcePlans of a command.

    Attributes:
        words: The sources as they were typed.
        inputs: The options about sources.
        labels: The labels file of sources that have none of their own.
        prompt: Their prompt file.
        files: The labels files that were read at the start; one that is a pipe is not read again.
        classifier: Each set of labels gets its own, with the same engines and text cache.
        started: The sources at the start, to which the outputs were fitted.
        regions_only: Whether every source has to have regions.
    """

    words: tuple[str, ...]
    inputs: Inputs
    labels: Path | None
    prompt: Path
    files: Mapping[Path, LabelsFile]
    classifier: Classifier
    started: Sequence[SourceSpec]
    regions_only: bool

    @property
    def file(self) -> Path | None:
        """The sources file, unless it is a pipe."""
        file = self.inputs.sources
        return file if file is not None and file.is_file() else None

    def specs_of_file(self) -> dict[str, SourceSpec]:
        """Read the sources file again; those that the command line asks for, by name."""
        named = read_sources(self.file) if self.file else {}
        words = [word for word in self.words or named if word in named]
        specs = find_sources(words, named, self.inputs.options, self.inputs.watch)
        return {spec.name: self._completed(spec) for spec in specs}

    def spec_of_table(self, name: str, table: object) -> SourceSpec:
        """The source of a table that was sent."""
        if not name.strip() or printable(name) != name or len(name) > _LONGEST_NAME:
            raise UsageError(f"a source cannot be called {name!r:.60}: one line, of at most {_LONGEST_NAME} characters")
        spec = read_source(_REQUEST, name, table)
        if spec.kind not in _SENT:
            known = ", ".join(KINDS[kind] for kind in _SENT)
            raise UsageError(f"{name} is {KINDS[spec.kind]}: that is for the sources file; here are {known}")
        if spec.labels or any(task.labels or task.prompt for tasks in spec.asked for task in tasks):
            raise UsageError(
                f"{name}: labels and prompt name files here: send what is in them, once the source is there"
            )
        (found,) = find_sources([name], {name: spec}, self.inputs.options)
        return self._completed(found)

    def plan(self, specs: Sequence[SourceSpec]) -> list[PlannedSource]:
        """Read their labels and prompts, as they are now."""
        if not specs:
            return []
        for spec in specs if self.regions_only else ():
            check_regions([spec])
        check_prompts(specs)
        files = read_labels_files(specs, self.labels, self.files)
        setups = TaskSetups(self.classifier, files, self.labels, self.inputs.template, self.prompt, fresh=True)
        return [PlannedSource(spec, setups.of_source(spec, decision_rule(self.inputs))) for spec in specs]

    def _completed(self, spec: SourceSpec) -> SourceSpec:
        """With regions and tasks of the command line. Raises UsageError: the outputs have no place for it."""
        spec = with_default_regions(spec, self.inputs.regions)
        spec = spec if spec.tasks else replace(spec, tasks=self.inputs.tasks)
        if spec.tasks and not any(each.tasks for each in self.started):
            raise UsageError(f"{spec.name}: the outputs were opened for sources without tasks: start attri-run again")
        if spec.kind == "frigate" and not any(each.kind == "frigate" for each in self.started):
            raise UsageError(f"{spec.name}: attri-run answers Frigate only if it was started with such a source")
        if len(spec.tasks) > 1 and spec.kind == "frigate":
            raise UsageError(f"{spec.name}: an object has one sub label, so one task is asked")
        return spec
