"""What attri-run and the attri-bundle that keeps its bundle up to date tell each other: files in a folder of the store.

update.json     by attri-bundle: what runs, and how far the last update is
counts.json     by attri-run: how often each label was decided since what runs does, and before
wanted.json     by attri-bundle: how many live frames it asks for
frames/N.jpg    by attri-run: these, until attri-bundle removes them
frames/N.json   by attri-run: what each task of its source asks of that frame
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from attri.runtime._util.atomic import write_file
from attri.runtime._util.printable import json_text

NONE = ""  # in the place of a label: it was none of them


@dataclass
class LabelCounts:
    """Results of one prompt.

    Attributes:
        results: how many; not whole once older ones count for less.
        not_finite: those whose score is NaN or infinite.
        labels: how often each label was decided; `NONE` where none was. Of independent labels each that holds counts.
    """

    results: float = 0.0
    not_finite: int = 0
    labels: dict[str, float] = field(default_factory=dict)

    def share(self, label: str) -> float:
        """Of all decided labels, 0 to 1; 0 where there are none."""
        return self.labels.get(label, 0.0) / (sum(self.labels.values()) or 1.0)

    def distance(self, other: LabelCounts) -> float:
        """Total variation distance of two distributions of labels: half the sum of |p - q|, 0 (equal) to 1."""
        names = self.labels.keys() | other.labels.keys()
        return sum(abs(self.share(name) - other.share(name)) for name in names) / 2


@dataclass
class ReleaseCounts:
    """Results by sha256 of the prompt that answered (`Prediction.prompt`).

    Attributes:
        runs: name of the release that they are of, as the store has it.
        now: since it runs.
        before: of the release before it.
        state: release and state of the update that others were told of last; None of the first one.
    """

    runs: str | None = None
    now: dict[str, LabelCounts] = field(default_factory=dict)
    before: dict[str, LabelCounts] = field(default_factory=dict)
    state: str | None = None


@dataclass(frozen=True)
class TaskSettings:
    """What a task asks of images, in values that another process can read: labels, prompt file and how scores are made.

    Attributes:
        name: of the task; None where its source has only this one.
        prompt: absolute path of the prompt file that it has of its own; None is that of the bundle.
        labels: text of its labels file; None are the labels of its prompt.
        template: sentence around each label; None is the prompt's.
        threshold: scores below it are none of the labels; None is the prompt's.
        independent: whether each label is scored by itself.
    """

    name: str | None = None
    prompt: str | None = None
    labels: str | None = None
    template: str | None = None
    threshold: float | None = None
    independent: bool = False


class WantedFrames(NamedTuple):
    """A request for live frames.

    Attributes:
        id: of this request.
        frames: how many.
    """

    id: str
    frames: int


class Exchange:
    """The folder.

    Args:
        folder: where it is; is made by whoever writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.frames = folder, folder / "frames"
        self._update, self._counts, self._wanted = (folder / f"{name}.json" for name in ("update", "counts", "wanted"))

    def tell_update(self, report: Mapping[str, Any]) -> None:
        """Say what runs, and how far the last update is. Raises OSError: it cannot be written."""
        text = json_text(report).encode()
        with suppress(OSError):
            if self._update.read_bytes() == text:
                return
        self.folder.mkdir(exist_ok=True)
        write_file(self._update, text)

    def update(self) -> dict[str, Any]:
        """What was said last; empty where nothing was."""
        return _read(self._update)

    def tell_counts(self, counts: ReleaseCounts) -> None:
        """Say how often each label was decided. It is written often, and not flushed: a power cut may lose it.

        Raises:
            OSError: it cannot be written.
        """
        part = self._counts.with_name(".counts.part")
        part.write_text(json.dumps(asdict(counts)))
        part.replace(self._counts)

    def counts(self) -> ReleaseCounts:
        """What was said last; empty where nothing was, or what there is cannot be read."""
        raw = _read(self._counts)
        try:
            now, before = (
                {prompt: LabelCounts(**each) for prompt, each in raw[name].items()} for name in ("now", "before")
            )
            return ReleaseCounts(raw["runs"], now, before, raw["state"])
        except (LookupError, TypeError, AttributeError):
            return ReleaseCounts()

    def ask_for_frames(self, frames: int) -> None:
        """Have attri-run save its next live frames. Raises OSError: it cannot be asked."""
        self.withdraw()
        self.folder.mkdir(exist_ok=True)
        self.frames.mkdir(mode=0o700)  # others are not to see what cameras do
        write_file(self._wanted, json.dumps({"id": uuid.uuid4().hex, "frames": frames}).encode())

    def wanted(self) -> WantedFrames | None:
        """The frames that are asked for."""
        raw = _read(self._wanted)
        return WantedFrames(raw["id"], raw["frames"]) if raw.keys() >= {"id", "frames"} else None

    def saved_frames(self) -> list[Path]:
        """Those that were saved, in order."""
        return sorted(self.frames.glob("[0-9]*.jpg"))

    def tell_settings(self, frame: Path, tasks: Sequence[TaskSettings]) -> None:
        """Say what is asked of a frame, before it is saved. Raises OSError: it cannot be written."""
        frame.with_suffix(".json").write_text(json.dumps([asdict(task) for task in tasks]))

    def withdraw(self) -> None:
        """Ask for no frames any more, and remove those that came; also what a kill left of what attri-bundle wrote."""
        for file in (self._wanted, *self.folder.glob(".*.json.*.part")):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.frames, ignore_errors=True)


def settings_of(frame: Path) -> tuple[TaskSettings, ...]:
    """What is asked of a saved frame, by each task of its source."""
    return tuple(TaskSettings(**raw) for raw in json.loads(frame.with_suffix(".json").read_text()))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
