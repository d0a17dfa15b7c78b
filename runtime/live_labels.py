"""Labels that change while frames come: from an edited file, or from whoever may ask for it."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from attri.runtime.classifier import Classifier
from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.labels import Label, load_labels, parse_labels

_LOGGER = logging.getLogger("attri")
_POLL = 0.3  # seconds: with the second look below, an edit counts within 0.6


class LiveLabels:
    """The labels of one classifier, and the file that they come from.

    A file is taken over when two looks at it agree, so that one half written is left alone. A broken one changes
    nothing and is complained of once.

    Args:
        classifier: is given the labels.
        file: None keeps the labels that the classifier has.
        template: the sentence around each prompt; None is the bundle's.

    Raises: LabelsError: the file cannot be used to begin with.
    """

    def __init__(self, classifier: Classifier, file: Path | None, template: str | None = None) -> None:
        self.classifier, self.file, self._template = classifier, file, template
        self.labels = [Label(text, (text,), number) for number, text in enumerate(classifier.labels, start=1)]
        self._taken = self._seen = _state(file)
        if file is not None or template is not None:
            self._use(load_labels(file) if file else self.labels, str(file or "the labels"))

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
        state = _state(self.file)
        if self.file is None or state == self._taken or state != self._seen:
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
        try:
            self.classifier.set_labels(words, [f"{name} line {each.line}" for each in labels], prompts, self._template)
        except UnicodeError as error:
            raise LabelsError(f"{name} holds characters that are no text") from error
        self.labels = list(labels)


def watch(sets: Callable[[], Sequence[LiveLabels]], stop: threading.Event) -> None:
    """Look at the files of all sets that there are, until `stop`."""
    while not stop.wait(_POLL):
        for each in sets():
            each.look()


def _state(file: Path | None) -> object:
    """Time, size and content: editors on some file systems leave the first two as they were."""
    if file is None:
        return None
    try:
        status = file.stat()
        return status.st_mtime_ns, status.st_size, hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        return error.errno
