"""What a trained prompt says of cached images, and how often it is right."""

from __future__ import annotations

import torch
from torch import Tensor

from attri.runtime.text.label_tokens import LabelTokens
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.features import Features

RETRIEVED = 4096  # views whose centres lie on the device at a time: 0.3 GB of ViT-L/14's


@torch.no_grad()
def retrieve(model: AttriPrompt, centres: Tensor) -> Tensor:
    """The pool entries of cached views, of which there may be more than a GPU holds. [I, L, K, D] -> [I, L, M], on the
    CPU
    """
    device = model.pool.keys.device
    return torch.cat([model.pool.retrieve(part.to(device)).cpu() for part in torch.split(centres, RETRIEVED)])


@torch.no_grad()
def predict(model: AttriPrompt, labels: LabelTokens, data: Features, batch: int = 64) -> Tensor:
    """Logits of every image's first view, [I, C]. Images with equal entries share one run of the text encoder."""
    device = model.pool.keys.device
    retrieved = retrieve(model, data.centres[:, 0]).to(device)  # [I, L, M]
    # A column of zeros in front, because `unique` does not take the empty rows of a model without a pool.
    padded = torch.nn.functional.pad(retrieved.flatten(1), (1, 0))
    unique, inverse = torch.unique(padded, dim=0, return_inverse=True)
    unique = unique[:, 1:].reshape(len(unique), *retrieved.shape[1:])  # [U, L, M]
    logits = torch.empty(len(data), len(labels), device=device)
    for first in range(0, len(unique), batch):
        text = model.encode_text(labels, unique[first : first + batch])  # [batch, C, D]
        images = ((inverse >= first) & (inverse < first + batch)).nonzero().squeeze(1)
        for part in torch.split(images, batch):
            features = data.features[part.cpu(), 0].to(device)
            logits[part] = model.logits(features, text[inverse[part] - first])
    return logits


def predict_plain(model: AttriPrompt, labels: LabelTokens, data: Features) -> Tensor:
    """The same without prompts: zero-shot CLIP, [I, C]."""
    text = model.plain_text(labels)  # [C, D]
    return model.backbone.logit_scale * data.features[:, 0].to(text.device) @ text.T


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Share of images whose best class is theirs."""
    return float((logits.argmax(-1).cpu() == targets).double().mean())
