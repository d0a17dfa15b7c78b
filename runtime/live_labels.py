"""Labels that change while frames come: from an edited file, or from whoever may ask for it."""

from __future__ import annotations

import copy
import hashlib
import logging
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attri.runtime.classifier import Classifier
from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.labels import Label, decode_labels, load_labels, parse_labels, read_bytes

_LOGGER = logging.getLogger("attri")
_POLL = 0.3  # seconds: with the second look below, an edit counts within 0.6


@dataclass(frozen=True)
class LabelsFile:
    """A labels file as it was read, once.

    state  tells a change; None where none can come, since a pipe (`--labels <(...)`, /dev/stdin) has no more to say
    """

    path: Path
    labels: list[Label]
    state: object

    @classmethod
    def read(cls, path: Path) -> LabelsFile:
        """Raises LabelsError."""
        data = read_bytes(path)
        return cls(path, decode_labels(data, path), _state(path, data))


class LiveLabels:
    """The labels of one classifier, and the file that they come from.

    A file is taken over when two looks at it agree, so that one half written is left alone. A broken one changes
    nothing and is complained of once.

    Args:
        classifier: is given the labels.
        source: None keeps the labels that the classifier has.
        template: the sentence around each prompt; None is the bundle's.

    Raises: LabelsError: the labels cannot be used to begin with.
    """

    def __init__(self, classifier: Classifier, source: LabelsFile | None, template: str | None = None) -> None:
        self.classifier, self._template, self._lock = classifier, template, threading.Lock()
        self._taken = self._seen = None if source is None else source.state
        self.file = None if source is None or source.state is None else source.path  # that may change
        own = [Label(text, (text,), number) for number, text in enumerate(classifier.labels, start=1)]
        self._use(own if source is None else source.labels, "the labels" if source is None else str(source.path))

    def set(self, text: str) -> None:
        """Take `text` as a labels file, until the file itself changes. Raises LabelsError and changes nothing."""
        self._use(parse_labels(text, "the labels"), "the labels")
        _LOGGER.info("%d labels from outside", len(self.labels))

    def twin(self) -> LiveLabels:
        """The same labels from the same file, which can be changed without changing these."""
        twin = copy.copy(self)
        twin.classifier = copy.copy(self.classifier)  # the same graphs and cache
        return twin

    def look(self) -> None:
        """Take over what the file says now, if it changed and keeps still."""
        if self.file is None:
            return
        state = _state(self.file)
        if state in (None, self._taken) or state != self._seen:
            self._seen = state
            return
        self._taken = state
        try:
            self._use(load_labels(self.file), str(self.file))
            _LOGGER.info("%s: %d labels", self.file, len(self.labels))
        except UsageError as error:
            _LOGGER.warning("%s; the labels from before stay", error)

    def _use(self, labels: Sequence[Label], name: str) -> None:
        words, prompts = [label.text for label in labels], [label.prompts for label in labels]
        places = [f"{name} line {each.line}" for each in labels]
        with self._lock:  # or of two changes at once the classifier could keep one, and whoever asks be told the other
            try:
                self.classifier.set_labels(words, places, prompts, self._template)
            except UnicodeError as error:
                raise LabelsError(f"{name} holds characters that are no text") from error
            self.labels = list(labels)


def watch(sets: Callable[[], Sequence[LiveLabels]], stop: threading.Event) -> None:
    """Look at the files of all sets that there are, until `stop`."""
    while not stop.wait(_POLL):
        for each in sets():
            each.look()


def _state(file: Path, data: bytes | None = None) -> object:
    """Time, size and content (editors on some file systems leave the first two as they were); of a pipe, None.

    data: what was read of it; None reads it.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        data = file.read_bytes() if data is None else data
        return status.st_mtime_ns, status.st_size, hashlib.sha256(data).digest()
    except OSError as error:
        return error.errno
