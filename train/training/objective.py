"""The training objective as a module, which DistributedDataParallel can wrap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attri.runtime.text.reader import Tokens
from attri.train.config import Term, TrainConfig
from attri.train.model import losses
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training import distributed
from attri.train.training.anchors import Anchors


class Objective(nn.Module):
    """The weighted terms of the loss, from cached features.

    Args:
        model: only its pool learns.
        labels: token ids of the prompts of all classes.
        anchors: text features that self-regularization holds on to.
        config: weights (a term of weight 0 is not computed) and precision.
    """

    def __init__(self, model: AttriPrompt, labels: Tokens, anchors: Anchors, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.labels, self.anchors, self.config = model, labels, anchors, config

    def forward(
        self, features: Tensor, centres: Tensor, targets: Tensor, counts: list[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the weighted loss terms of this process's share of the batch.

        Means over images are scaled so that the mean over processes, which DistributedDataParallel takes of gradients,
        is the mean over all images of the batch.

        Args:
            features: unit image features [B, D].
            centres: unit centres [B, L, K, D].
            targets: classes [B].
            counts: images of every process; a process with 0 passes one image, which does not count.

        Returns:
            The terms by name, and the logits [B, C].
        """
        model, pool, config = self.model, self.model.pool, self.config
        retrieved = pool.retrieve(centres)  # [B, L, M]
        if retrieved.shape[-1] == 0:
            retrieved = retrieved[:1]  # without a pool every image has the same text features
        with torch.autocast(features.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            text = model.encode_text(self.labels, retrieved).expand(len(features), -1, -1)  # [B, C, D]
            anchors = self.anchors(centres)  # [B, C, D], or [1, C, D]
        logits = model.logits(features, text)
        keys = pool.keys_of_blocks()

        def mean(of_image: Tensor) -> Tensor:
            return of_image[: counts[distributed.rank()]].sum() * distributed.size() / sum(counts)

        terms: dict[Term, Callable[[], Tensor]] = {
            "class": lambda: mean(losses.class_stream(logits, targets)),
            "instance": lambda: self.instance(features, targets, text, counts),
            "text": lambda: mean(losses.text_distance(text, anchors)),
            "logits": lambda: mean(losses.prediction_distance(logits, self.anchored(features, anchors))),
        }
        if keys.shape[1]:
            terms["retrieval"] = lambda: mean(losses.retrieval_distance(centres, keys, pool.topk))
            terms["diversity"] = lambda: losses.key_diversity(keys)
        return {name: config.weight(name) * term() for name, term in terms.items() if config.weight(name)}, logits

    def anchored(self, features: Tensor, anchors: Tensor) -> Tensor:
        """Return the logits of the anchors [B, C]."""
        if len(anchors) == 1:
            return self.model.backbone.logit_scale * features @ anchors[0].T
        return self.model.logits(features, anchors)

    def instance(self, features: Tensor, targets: Tensor, text: Tensor, counts: list[int]) -> Tensor:
        """Return the instance stream over the images of all processes; each computes the columns of its own prompts."""
        own = counts[distributed.rank()]
        features, targets, text = features[:own], targets[:own], text[:own]
        every_feature = distributed.concatenate(features, counts)
        every_target = distributed.concatenate(targets, counts)
        columns = losses.instance_similarity(every_feature, every_target, text, self.model.backbone.logit_scale)
        similarity = distributed.concatenate(columns.T, counts).T  # [all, all]
        return losses.instance_stream(similarity, every_target)
