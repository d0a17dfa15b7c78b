"""Zero-shot CLIP, with one template and with several."""

from __future__ import annotations

from attri.train.data.templates import ENSEMBLE
from benchmarks.accuracy.methods.task import Classifier, Task, by_text


def zero_shot(task: Task) -> Classifier:
    """The backbone as it is, with the template alone."""
    return by_text(task, lambda classes: task.frozen(classes, (task.template,)))


def ensemble(task: Task) -> Classifier:
    """Text features averaged over the seven templates of CLIP's authors and the dataset's own."""
    return by_text(task, lambda classes: task.frozen(classes, (task.template, *ENSEMBLE)))
