r"""Gaussian-weighted averaging of the prompts over the epochs (PromptSRC, Khattak et al. 2023).

    P = sum_e w_e P_e,   w_e = N(e; mean E, (std E)^2) / sum_e' N(e'; mean E, (std E)^2),   e = 1..E

Early prompts are undertrained and late ones overfit the base classes; the weight lies in between. P_e are all learned
parameters, keys included, after epoch e.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PREFIX = "average."


def weights(epochs: int, mean: float, std: float) -> list[float]:
    """Return w_1..w_E; mean and std are shares of `epochs`."""
    logs = [-((epoch - mean * epochs) ** 2) / (2 * (std * epochs) ** 2) for epoch in range(1, epochs + 1)]
    raw = [math.exp(log - max(logs)) for log in logs]
    return [value / sum(raw) for value in raw]


class PromptAverage:
    """The weighted running sum of the prompts; its tensors are part of the checkpoint."""

    def __init__(self, pool: nn.Module, weights: list[float]) -> None:
        self.weights = weights
        self.sums = {name: torch.zeros_like(value) for name, value in pool.state_dict().items()}

    def add(self, pool: nn.Module, epoch: int) -> None:
        """Add the prompts as they are after `epoch` (from 1)."""
        for name, value in pool.state_dict().items():
            self.sums[name] += self.weights[epoch - 1] * value

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums under the names that a checkpoint stores."""
        return {PREFIX + name: value for name, value in self.sums.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Load the sums from a checkpoint's tensors."""
        for name, value in self.sums.items():
            value.copy_(tensors[PREFIX + name])
