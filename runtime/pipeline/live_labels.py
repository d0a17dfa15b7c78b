"""Labels that change at run time: their file is watched, and they can be set and written by PipelineControl."""

from __future__ import annotations

import copy
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attri.runtime._util.wording import plural
from attri.runtime.classifier import Classifier
from attri.runtime.errors import AttriError, LabelsError
from attri.runtime.labels import Label, decode, parse_labels, unreadable
from attri.runtime.pipeline.watched_file import WatchedFile, state_of
from attri.runtime.prompt import Prompt

_LOGGER = logging.getLogger("attri")
_POLL = 0.3  # seconds: with the second look below, an edit counts within 0.6


@dataclass(frozen=True)
class LabelsFile:
    """A labels file as it was read, once.

    Attributes:
        path: Of the file.
        text: With its comments.
        labels: What it holds.
        state: Tells a change; None of a pipe (`<(...)`, /dev/stdin), which can be read only once.
    """

    path: Path
    text: str
    labels: list[Label]
    state: object

    @classmethod
    def read(cls, path: Path) -> LabelsFile:
        """Read a labels file.

        Raises:
            LabelsError: It cannot be read, or holds no labels.
        """
        try:
            with path.open("rb") as file:
                data = file.read()
                state = state_of(os.fstat(file.fileno()), data)  # of what was read, whatever the path leads to by now
        except OSError as error:
            raise unreadable(path, error) from error
        text = decode(data, path)
        return cls(path, text, parse_labels(text, str(path)), state)


class LiveLabels:
    """The labels of one classifier, and the file that they come from.

    A broken file changes nothing and is complained of once.

    Args:
        classifier: is given the labels.
        source: None keeps the labels that the classifier has.
        template: the sentence around each prompt; None is the bundle's.
        apply: False leaves a classifier that keeps its labels untouched, prompts of them included.

    Attributes:
        classifier: as given.
        template: as given.

    Raises:
        LabelsError: The labels cannot be used to begin with.
    """

    def __init__(
        self, classifier: Classifier, source: LabelsFile | None, template: str | None = None, *, apply: bool = True
    ) -> None:
        self.classifier, self.template, self._lock = classifier, template, threading.Lock()
        self._watched = WatchedFile(source.path, source.state) if source and source.state else None
        own = [Label(text, (text,), number) for number, text in enumerate(classifier.labels, start=1)]
        if source is None and not apply:
            self.labels = own
            self.text = "".join(f"{label}\n" for label in own)
        elif source is None:
            self._apply("\n".join(map(str, own)), own, "the labels")
        else:
            self._apply(source.text, source.labels, str(source.path))
        self._original: str | None = self.text  # as the file has it; None: it has something that cannot be used

    @property
    def file(self) -> Path | None:
        """The file that may change; a pipe is none."""
        return None if self._watched is None else self._watched.path

    @property
    def question(self) -> tuple[object, ...]:
        """What is asked of an image: the same for equal labels, whatever file they come from."""
        return self.text, self.template, self.classifier.prompt.digest, self.classifier.threshold

    @property
    def edited(self) -> bool:
        """Whether other labels are used than the file holds, or than there were where none can be written."""
        return self.text != self._original

    def set(self, text: str) -> None:
        """Take `text` as a labels file, until the file itself changes.

        Raises:
            LabelsError: It cannot be used; nothing was changed.
        """
        self._apply(text, parse_labels(text, "the labels"), "the labels")
        _LOGGER.info("%s from outside", plural(len(self.labels), "label"))

    def fork(self, text: str) -> LiveLabels:
        """A copy with the same file, engines and text cache that has taken `text`; this one stays as it is.

        Raises:
            LabelsError: It cannot be used.
        """
        fork = self._copy()
        fork.set(text)
        return fork

    def with_prompt(self, prompt: Prompt) -> LiveLabels:
        """A copy that uses another learned prompt; this one stays as it is.

        Labels that came from a file or were edited stay; others become the prompt's own.

        Raises:
            AttriError: The prompt cannot be used.
        """
        other = self._copy()
        other.classifier.set_prompt(prompt)
        if self.file is None and not self.edited:
            own = [Label(text, (text,), number) for number, text in enumerate(prompt.facts.labels, start=1)]
            other._apply("\n".join(map(str, own)), own, "the labels")
            other._original = other.text
        return other

    def poll(self) -> None:
        """Take over what the file says now, if it changed and keeps still."""
        if self._watched is None or (found := self._watched.look()) is None:
            return
        file = self._watched.path
        try:
            if isinstance(found, OSError):
                raise unreadable(file, found)
            text = decode(found, file)
            self._apply(text, parse_labels(text, str(file)), str(file))
            self._original = self.text
            _LOGGER.info("%s: %s", file, plural(len(self.labels), "label"))
        except AttriError as error:
            self._original = None
            _LOGGER.warning("%s; the labels from before stay", error)

    def write(self) -> None:
        """Write the labels that are used into the file that they came from.

        Raises:
            LabelsError: there is no such file.
            UsageError: it is read-only, or it has changed and was not taken over yet.
            FailedError: it cannot be written; it is as it was.
        """
        if self._watched is None:
            raise LabelsError("these labels came from no file, so there is none to write them to")
        with self._lock:
            self._watched.write(self.text.encode())
            self._original = self.text
        _LOGGER.info("%s: %d labels written", self._watched.path, len(self.labels))

    def _copy(self) -> LiveLabels:
        """With a classifier, a lock and a view of the file of its own."""
        other = copy.copy(self)
        other.classifier, other._lock, other._watched = (
            self.classifier.fork(),
            threading.Lock(),
            copy.copy(self._watched),
        )
        return other

    def _apply(self, text: str, labels: Sequence[Label], name: str) -> None:
        words, prompts = [label.text for label in labels], [label.prompts for label in labels]
        places = [f"{name} line {each.line}" for each in labels]
        with self._lock:  # or of two changes at once the classifier and `self.labels` could keep different ones
            try:
                self.classifier.set_labels(words, places, prompts, self.template)
            except UnicodeError as error:
                raise LabelsError(f"{name} holds characters that are no text") from error
            self.labels = list(labels)
            self.text = re.sub(r"\r\n|\r", "\n", text).rstrip("\n") + "\n"


class Watched(Protocol):
    """Whatever takes over a file that changes."""

    def poll(self) -> None:
        """Look at the file."""
        ...


def watch(files: Callable[[], Sequence[Watched]], stop: threading.Event) -> None:
    """Look at all files that there are, until `stop`."""
    while not stop.wait(_POLL):
        for each in files():
            each.poll()
