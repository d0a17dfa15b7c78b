"""The labels in use and the rejection threshold that goes with them. Both may change at any time, from any thread."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Literal

from attri.runtime.bundle import Manifest
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.label_set import LabelSet

_LOGGER = logging.getLogger("attri")
_OWN: Literal["own"] = "own"  # in the place of a threshold: the bundle's, for the labels that it was chosen for


class ActiveLabels:
    """The labels of one classifier and its forks' starting point: the bundle's own until others are set.

    Args:
        encoder: Tokenizes labels.
        manifest: Gives the bundle's own labels, and the threshold that was chosen for them.
        labels: The first labels; None are the bundle's own, which are encoded when they are first needed.
    """

    def __init__(self, encoder: TextEncoder, manifest: Manifest, labels: Sequence[str] | None = None) -> None:
        self._encoder, self._manifest = encoder, manifest
        self._changing = threading.Lock()
        self._threshold: float | Literal["own"] | None = _OWN
        self._given = None if labels is None else self._encode(labels)

    def fork(self) -> ActiveLabels:
        """Return a copy that changes by itself."""
        fork = ActiveLabels(self._encoder, self._manifest)
        fork._given, fork._threshold = self._given, self._threshold
        return fork

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as they were given."""
        given = self._given
        return tuple(self._manifest.labels) if given is None else given.labels

    def get(self) -> LabelSet:
        """Return the labels that were set, or the bundle's own."""
        if self._given is None:
            with self._changing:  # or labels that come meanwhile would be replaced by these
                if self._given is None:
                    self._given = self._encode(self._manifest.labels)
                    _warn_of_one(self._given.labels)
        return self._given

    def set(
        self,
        labels: Sequence[str],
        locations: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> None:
        """Replace the labels. Arguments are those of `Classifier.set_labels`.

        Raises:
            LabelsError: The labels cannot be used; the old ones stay.
        """
        given = self._encode(labels, locations, prompts, template)
        _warn_of_one(given.labels)
        with self._changing:
            self._given = given

    @property
    def threshold(self) -> float | None:
        """The threshold that applies to the labels in use; None never rejects. Assigned, it applies to any labels."""
        return self.threshold_of(self._given)

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._threshold = threshold

    def threshold_of(self, labels: LabelSet | None) -> float | None:
        """Return the threshold that applies to `labels`; None are the bundle's own, not encoded yet."""
        chosen = self._threshold
        if chosen != _OWN:
            return chosen
        return self._manifest.threshold if labels is None or labels.own else None

    @property
    def threshold_not_applied(self) -> bool:
        """Whether the bundle has a threshold that does not apply, because the labels are not its own."""
        given = self._given
        foreign = given is not None and not given.own
        return self._threshold == _OWN and foreign and self._manifest.threshold is not None

    def _encode(
        self,
        labels: Sequence[str],
        locations: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> LabelSet:
        if isinstance(labels, str):
            raise TypeError("labels is one string: give a list of strings")
        own = _same_words(labels, prompts, self._manifest.labels) and template in (None, self._encoder.template)
        return dataclasses.replace(self._encoder.label_set(labels, locations, prompts, template), own=own)


def _warn_of_one(labels: Sequence[str]) -> None:
    if len(labels) == 1:
        _LOGGER.warning(
            'one label ("%s") always scores 100%%, whatever the threshold, since nothing is compared with it: add a'
            ' second for what else is seen, such as "background"',
            labels[0],
        )


def _same_words(labels: Sequence[str], prompts: Sequence[Sequence[str]] | None, own: Sequence[str]) -> bool:
    """Whether labels are the bundle's own, in any order: the best score does not depend on it."""
    plain = prompts is None or all(list(group) == [label] for group, label in zip(prompts, labels, strict=True))
    return plain and sorted(labels) == sorted(own)
