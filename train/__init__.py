"""AttriPrompt prompt learning on a frozen CLIP, in PyTorch.

The names in `__all__` are imported at first use, so that `attri-train --help` does not load PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attri.train.config import PromptConfig, TrainConfig
    from attri.train.fitting import fit
    from attri.train.model import AttriPrompt
    from attri.train.training.checkpoint import load_run

__all__ = ["AttriPrompt", "PromptConfig", "TrainConfig", "fit", "load_run"]

_MODULES = {
    "AttriPrompt": "attri.train.model",
    "PromptConfig": "attri.train.config",
    "TrainConfig": "attri.train.config",
    "fit": "attri.train.fitting",
    "load_run": "attri.train.training.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
