r"""A linear probe (Radford et al. 2021): logistic regression on the frozen features, which knows no new class.

    min_W,b  mean_i CE(W v_i + b, y_i) + lambda/2 |W|^2        lambda by accuracy on the validation images

All views of the training images count. The mean of the training features is taken off and what is left scaled to unit
variance over all entries, because features of one CLIP lie in a narrow cone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attri.train.training.features import Features
from benchmarks.accuracy.methods.task import Classifier, Task

LAMBDAS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ITERATIONS = 100


def fit(x: Tensor, targets: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """The minimum, by L-BFGS from zero. x [I, D], targets [I] -> W [C, D], b [C]."""
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), targets) + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def linear_probe(task: Task) -> Classifier:
    """Choose lambda; without validation images it is the middle one."""
    views = task.train.features.shape[1]
    x, targets = task.train.features.flatten(0, 1), task.train.targets.repeat_interleave(views)
    mean = x.mean(0)
    deviation = (x - mean).std()

    def scaled(data: Features) -> Tensor:
        return (data.features[:, 0] - mean) / deviation

    def right(weight: Tensor, bias: Tensor) -> int:
        assert task.val is not None
        return int((F.linear(scaled(task.val), weight, bias).argmax(1) == task.val.targets).sum())

    strengths = LAMBDAS if task.val is not None else (LAMBDAS[len(LAMBDAS) // 2],)
    probes = [fit((x - mean) / deviation, targets, len(task.classes), strength) for strength in strengths]
    weight, bias = max(probes, key=lambda probe: right(*probe)) if len(probes) > 1 else probes[0]

    def classify(data: Features, classes: list[str]) -> Tensor:
        assert classes == task.classes, "a linear probe knows its own classes alone"
        return F.linear(scaled(data), weight, bias)

    return classify
