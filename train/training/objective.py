"""What one step minimises, as a module: so that DistributedDataParallel can wrap it, and the loop stays a loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attri.runtime.text.label_tokens import LabelTokens
from attri.train.config import TrainConfig
from attri.train.model import losses
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training import distributed


class Objective(nn.Module):
    """The weighted terms of the loss, from cached features.

    Args:
        model: only its pool learns.
        labels: the embedded prompts of all classes.
        frozen: plain text features, averaged over templates [C, D].
        config: weights (a term of weight 0 is not computed) and precision.
    """

    def __init__(self, model: AttriPrompt, labels: LabelTokens, frozen: Tensor, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.labels, self.frozen, self.config = model, labels, frozen, config

    def forward(
        self, features: Tensor, centres: Tensor, targets: Tensor, counts: list[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """This process's share of the batch: features [B, D], centres [B, L, K, D], targets [B] -> terms, logits [B, C]

        `counts` says how many images every process has; one that has none brings one that does not count. Means over
        images are scaled so that the mean over processes, which is what DistributedDataParallel takes of gradients, is
        the mean over all images of the batch.
        """
        model, pool, config = self.model, self.model.pool, self.config
        with torch.autocast(features.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            text = model.encode_text(self.labels, pool.retrieve(centres))  # [B, C, D]
        logits = model.logits(features, text)
        keys = pool.keys_of_blocks()

        def mean(of_image: Tensor) -> Tensor:
            return of_image[: counts[distributed.rank()]].sum() * distributed.size() / sum(counts)

        terms: dict[str, Callable[[], Tensor]] = {
            "class": lambda: mean(losses.class_stream(logits, targets)),
            "instance": lambda: self.instance(features, targets, text, counts),
            "text": lambda: mean(losses.text_distance(text, self.frozen)),
            "logits": lambda: mean(losses.prediction_distance(logits, self.plain(features))),
        }
        if keys.shape[1]:
            terms["retrieval"] = lambda: mean(losses.retrieval_distance(centres, keys, pool.topk))
            terms["diversity"] = lambda: losses.key_diversity(keys)
        return {name: config.weight(name) * term() for name, term in terms.items() if config.weight(name)}, logits

    def plain(self, features: Tensor) -> Tensor:
        """Logits without prompts [B, C]."""
        return self.model.backbone.logit_scale * features @ self.frozen.T

    def instance(self, features: Tensor, targets: Tensor, text: Tensor, counts: list[int]) -> Tensor:
        """The instance stream over the images of all processes. Each makes the columns of its own prompts."""
        own = counts[distributed.rank()]
        features, targets, text = features[:own], targets[:own], text[:own]
        every_feature = distributed.concatenate(features, counts)
        every_target = distributed.concatenate(targets, counts)
        columns = losses.instance_similarity(every_feature, every_target, text, self.model.backbone.logit_scale)
        similarity = distributed.concatenate(columns.T, counts).T  # [all, all]
        return losses.instance_stream(similarity, every_target)
