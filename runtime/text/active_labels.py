"""The prompt, the labels and the rejection threshold in use. All may change at any time, from any thread."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attri.runtime.prompt import HOLDS, Prompt
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.label_set import LabelSet

_LOGGER = logging.getLogger("attri")
_OWN: Literal["own"] = "own"  # in the place of a threshold: the prompt's, for the labels that it was chosen for


@dataclass(frozen=True)
class _Request:
    """Labels as they were given; they are encoded anew for another prompt."""

    labels: Sequence[str]
    locations: Sequence[str] | None = None
    prompts: Sequence[Sequence[str]] | None = None
    template: str | None = None


@dataclass(frozen=True)
class _State:
    """What changes together.

    Attributes:
        prompt: in use.
        request: the labels that were given; None are the prompt's own.
        labels: the same, encoded; None are own ones that are not encoded yet.
    """

    prompt: Prompt
    request: _Request | None = None
    labels: LabelSet | None = None


class ActiveLabels:
    """The prompt and the labels of one classifier: the prompt's own labels until others are set.

    Args:
        encoder: Tokenizes labels.
        prompt: The first prompt. It gives its own labels, and the threshold that was chosen for them.
        labels: The first labels; None are the prompt's own, which are encoded when they are first needed.

    Attributes:
        independent: Whether each label is scored by itself, so that several may hold, or none.
    """

    def __init__(self, encoder: TextEncoder, prompt: Prompt, labels: Sequence[str] | None = None) -> None:
        self._encoder = encoder
        self.independent = False
        self._changing = threading.Lock()
        self._threshold: float | Literal["own"] | None = _OWN
        self._state = self._made(prompt, None if labels is None else _Request(labels))

    def fork(self) -> ActiveLabels:
        """Return a copy that changes by itself."""
        fork = ActiveLabels(self._encoder, self._state.prompt)
        fork._state, fork._threshold, fork.independent = self._state, self._threshold, self.independent
        return fork

    @property
    def prompt(self) -> Prompt:
        """The prompt in use."""
        return self._state.prompt

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as they were given."""
        state = self._state
        return tuple(state.prompt.facts.labels) if state.labels is None else state.labels.labels

    def get(self) -> LabelSet:
        """Return the labels that were set, or the prompt's own, with the prompt that they are for."""
        labels = self._state.labels
        if labels is None:
            with self._changing:  # or labels that come meanwhile would be replaced by these
                labels = self._state.labels
                if labels is None:
                    prompt = self._state.prompt
                    labels = self._encode(prompt, _Request(prompt.facts.labels))
                    self._warn_of_one(labels.labels)
                    self._state = _State(prompt, None, labels)
        return labels

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
        with self._changing:
            self._state = self._made(self._state.prompt, _Request(labels, locations, prompts, template))

    def set_prompt(self, prompt: Prompt) -> None:
        """Replace the prompt; labels that were set stay, others are the new prompt's own.

        Raises:
            LabelsError: The labels cannot be used with it; the old prompt stays.
        """
        with self._changing:
            self._state = self._made(prompt, self._state.request)

    @property
    def threshold(self) -> float | None:
        """The threshold that applies to the labels in use; None never rejects. Assigned, it applies to any labels."""
        state = self._state
        return self._threshold_of(state.prompt, state.labels is None or state.labels.own)

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._threshold = threshold

    @property
    def given_threshold(self) -> float | None:
        """The threshold that was assigned; None where there is none, or it is the prompt's."""
        chosen = self._threshold
        return None if chosen == _OWN else chosen

    def threshold_of(self, labels: LabelSet) -> float | None:
        """Return the threshold that applies to `labels`."""
        return self._threshold_of(labels.prompt, labels.own)

    def _threshold_of(self, prompt: Prompt, own: bool) -> float | None:
        chosen = self._threshold
        if chosen != _OWN:
            return chosen
        return prompt.facts.threshold if own else None

    @property
    def threshold_not_applied(self) -> bool:
        """Whether the prompt has a threshold that does not apply, because the labels are not its own."""
        state = self._state
        foreign = state.labels is not None and not state.labels.own
        return not self.independent and self._threshold == _OWN and foreign and state.prompt.facts.threshold is not None

    def _made(self, prompt: Prompt, request: _Request | None) -> _State:
        if request is None:
            return _State(prompt)
        labels = self._encode(prompt, request)
        self._warn_of_one(labels.labels)
        return _State(prompt, request, labels)

    def _encode(self, prompt: Prompt, request: _Request) -> LabelSet:
        if isinstance(request.labels, str):
            raise TypeError("labels is one string: give a list of strings")
        own = _same_words(request, prompt) and request.template in (None, prompt.facts.template)
        encoded = self._encoder.label_set(prompt, request.labels, request.locations, request.prompts, request.template)
        return dataclasses.replace(encoded, own=own, thresholds=_thresholds(request, prompt))

    def _warn_of_one(self, labels: Sequence[str]) -> None:
        if len(labels) == 1 and not self.independent:
            _LOGGER.warning(
                'one label ("%s") always scores 100%%, whatever the threshold, since nothing is compared with it: add a'
                ' second for what else is seen, such as "background"',
                labels[0],
            )


def _thresholds(request: _Request, prompt: Prompt) -> NDArray[np.float32]:
    """The score from which on each label holds [C]: its own where it is asked for in the words it was fitted with."""
    scores = prompt.facts.independent
    common, known = (HOLDS, {}) if scores is None else (scores.threshold, scores.thresholds)
    groups = request.prompts or [(label,) for label in request.labels]
    if request.template not in (None, prompt.facts.template):
        known = {}
    pairs = zip(request.labels, groups, strict=True)
    return np.array([known.get(label, common) if [*group] == [label] else common for label, group in pairs], np.float32)


def _same_words(request: _Request, prompt: Prompt) -> bool:
    """Whether labels are the prompt's own, in any order: the best score does not depend on it."""
    labels, prompts = request.labels, request.prompts
    plain = prompts is None or all(list(group) == [label] for group, label in zip(prompts, labels, strict=True))
    return plain and sorted(labels) == sorted(prompt.facts.labels)
