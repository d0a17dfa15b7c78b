"""The training loop and what it keeps: cached features, checkpoints, the run folder."""
