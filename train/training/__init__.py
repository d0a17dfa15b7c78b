"""The training loop and what it keeps: cached features, checkpoints, the run folder."""

from attri.train.training.checkpoint import Run, load_run
from attri.train.training.features import FeatureCache, Features
from attri.train.training.progress import Progress
from attri.train.training.trainer import Trainer

__all__ = ["FeatureCache", "Features", "Progress", "Run", "Trainer", "load_run"]
