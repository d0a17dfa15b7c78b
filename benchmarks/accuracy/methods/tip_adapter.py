r"""Tip-Adapter without training (Zhang et al. 2022): the few training images as a cache beside the text.

    logits = s v . T  +  alpha sum_i exp(-beta (1 - v . k_i)) onehot(y_i)

k_i is the mean of a training image's views, unit length. alpha and beta are searched on the validation images, as the
authors do. A class that the cache does not hold keeps its zero-shot logit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attri.train.training.features import Features
from benchmarks.accuracy.methods.task import Classifier, Task

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0)
BETAS = (1.0, 3.0, 5.5, 10.0, 30.0)
DEFAULT = (1.0, 5.5)  # the paper's


def from_cache(features: Tensor, keys: Tensor, values: Tensor, beta: float) -> Tensor:
    """What the cache adds. features [I, D], unit keys [N, D], values one-hot [N, C] -> [I, C]."""
    return torch.exp(-beta * (1 - features @ keys.T)) @ values


def tip_adapter(task: Task) -> Classifier:
    """Fill the cache and choose alpha and beta."""
    keys = F.normalize(task.train.features.mean(1), dim=-1)  # [N, D]

    def classifier(alpha: float, beta: float) -> Classifier:
        def classify(data: Features, classes: list[str]) -> Tensor:
            text = task.frozen(classes, (task.template,))
            values = one_hot(task, classes)
            plain = task.scale * data.features[:, 0] @ text.T
            return plain + alpha * from_cache(data.features[:, 0], keys, values, beta)

        return classify

    if task.val is None:
        return classifier(*DEFAULT)
    seen, values = task.val.features[:, 0], one_hot(task, task.classes)
    plain = task.scale * seen @ task.frozen(task.classes, (task.template,)).T
    added = {beta: from_cache(seen, keys, values, beta) for beta in BETAS}

    def correct(pair: tuple[float, float]) -> int:
        assert task.val is not None
        return int(((plain + pair[0] * added[pair[1]]).argmax(1) == task.val.targets).sum())

    # The first of equals, so the paper's values where the search does not tell.
    return classifier(*max([DEFAULT, *((alpha, beta) for alpha in ALPHAS for beta in BETAS)], key=correct))


def one_hot(task: Task, classes: list[str]) -> Tensor:
    """The training images' classes among `classes`; rows of others are zeros. -> [N, C]."""
    place = torch.tensor([classes.index(name) if name in classes else len(classes) for name in task.classes])
    return F.one_hot(place[task.train.targets], len(classes) + 1)[:, :-1].float()
