"""Settings of the smallest training that learns something."""

from __future__ import annotations

from attri.train.config import PromptConfig, TrainConfig

QUICK = TrainConfig(epochs=3, augmentations=2, shots=2, batch_size=16)
PROMPT = PromptConfig(pool_size=8)
