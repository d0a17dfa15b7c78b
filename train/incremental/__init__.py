"""Class-incremental learning: training that starts at a prompt that is in use, and keeps what that prompt knew."""

from attri.train.incremental.start import Start, read_start

__all__ = ["Start", "read_start"]
