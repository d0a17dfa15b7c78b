"""Predictions and accuracy of a trained prompt on cached features."""

from __future__ import annotations

import torch
from torch import Tensor

from attri.runtime.text.reader import Tokens
from attri.train.model.attriprompt import AttriPrompt
from attri.train.training.features import Features

VIEWS_AT_ONCE = 4096  # views whose centres are on the device at a time: 0.3 GB with ViT-L/14


@torch.no_grad()
def retrieve(model: AttriPrompt, centres: Tensor) -> Tensor:
    """Retrieve the pool entries of cached views, in parts that fit a GPU. [I, L, K, D] -> [I, L, M] on the CPU."""
    device = model.pool.keys.device
    return torch.cat([model.pool.retrieve(part.to(device)).cpu() for part in torch.split(centres, VIEWS_AT_ONCE)])


@torch.no_grad()
def predict(model: AttriPrompt, labels: Tokens, data: Features, batch: int = 64) -> Tensor:
    """Return the logits of every image's first view [I, C]; images with equal pool entries share one text encoding."""
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


def predict_plain(model: AttriPrompt, labels: Tokens, data: Features) -> Tensor:
    """Return the logits of zero-shot CLIP [I, C]."""
    text = model.plain_text(labels)  # [C, D]
    return model.backbone.logit_scale * data.features[:, 0].to(text.device) @ text.T


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Return the share of images whose highest logit is their class."""
    return float((logits.argmax(-1).cpu() == targets).double().mean())
