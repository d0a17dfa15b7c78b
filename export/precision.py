"""Which weights of a tower become half precision: those of matrix products, convolution and embeddings.

Norms, softmax and retrieval compute in float32 (`attri.train.transformer` widens what it gets), so their weights stay.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
KEPT = ("proj",)  # visual.proj also projects cluster centres, which are part of retrieval; it is cast where it is used


def in_precision(module: Module, precision: str) -> Module:
    """A copy of a tower whose products run in that precision: "fp32" or "fp16"."""
    module = copy.deepcopy(module)
    for child in module.modules():
        if isinstance(child, nn.LayerNorm):
            continue
        for name, parameter in child.named_parameters(recurse=False):
            if name not in KEPT:
                parameter.data = parameter.data.to(DTYPES[precision])
    return module
