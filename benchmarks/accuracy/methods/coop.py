r"""CoOp (Zhou et al. 2022): one learned context for all classes, in front of the words, in the first block only.

    tokens of class c = [SOS, v_1 ... v_M, words of c, ".", EOT]        v_m in R^W learned by cross-entropy

M is 4 and starts from "a photo of a", as in CoCoOp's comparison. Optimizer and schedule are those of the other methods
(AdamW, 2e-3, cosine), so that the prompts alone differ; CoOp's own are SGD and more epochs.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from attri.runtime.tokenizer import Tokenizer
from benchmarks.accuracy.methods.task import Classifier, Task, by_text

START = "a photo of a"
SOS, EOT = 49406, 49407
BATCH, RATE = 32, 2e-3


@cache
def tokenizer() -> Tokenizer:
    """CLIP's tokenizer, read once: it takes seconds."""
    return Tokenizer()


def encode(task: Task, context: Tensor, classes: list[str]) -> Tensor:
    """Text features of all classes. context [M, W] -> unit [C, D]."""
    text, backbone = task.model.text, task.model.backbone
    table = backbone.token_embedding
    words = [tokenizer().encode(f"{name}.") for name in classes]
    length = 1 + len(context) + max(map(len, words)) + 1
    if length > backbone.context_length:
        raise ValueError(f"{length} tokens are more than the {backbone.context_length} of {backbone.name}")
    ids = torch.zeros(len(classes), length, dtype=torch.long)
    for row, tokens in enumerate(words):
        ids[row, 0] = SOS
        ids[row, 1 + len(context) : 2 + len(context) + len(tokens)] = torch.tensor([*tokens, EOT])
    embedded = table[ids]  # [C, T, W]
    embedded = torch.cat([embedded[:, :1], context.expand(len(ids), -1, -1), embedded[:, 1 + len(context) :]], 1)
    states = embedded + text.positional_embedding[:length]
    causal = torch.full((length, length), -math.inf).triu(1)
    for block in text.blocks:
        states = block(states, attn_mask=causal)
    last = states[torch.arange(len(ids)), ids.argmax(1)]  # EOT has the highest id [C, W]
    return F.normalize(text.project(text.ln_final(last)), dim=-1)


def coop(task: Task) -> Classifier:
    """Learn the context."""
    start = task.model.backbone.token_embedding[torch.tensor(tokenizer().encode(START))]
    context = torch.nn.Parameter(start.clone())  # [M, W]
    optimizer = torch.optim.AdamW([context], lr=RATE)
    count, generator = len(task.train), torch.Generator().manual_seed(task.seed)
    steps = task.epochs * math.ceil(count / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(task.epochs):
        views = torch.randint(task.train.features.shape[1], (count,), generator=generator)
        for rows in torch.randperm(count, generator=generator).split(BATCH):
            features = task.train.features[rows, views[rows]]
            logits = task.scale * features @ encode(task, context, task.classes).T
            optimizer.zero_grad()
            F.cross_entropy(logits, task.train.targets[rows]).backward()
            optimizer.step()
            schedule.step()
    return by_text(task, lambda classes: encode(task, context, classes))
