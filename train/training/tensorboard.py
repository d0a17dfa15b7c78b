"""TensorBoard events of a run: the records of metrics.jsonl, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from attri.train.training import distributed


class Scalars:
    """Writes TensorBoard events on rank 0; without a folder it does nothing.

    Args:
        folder: of the event files, or None.
        epoch: epochs completed; events that an interrupted process wrote beyond it are dropped.
    """

    def __init__(self, folder: Path | None, epoch: int) -> None:
        self.writer: Any = None
        if folder is None or distributed.rank() > 0:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def epoch(self, record: dict[str, Any]) -> None:
        """Write one record: its terms, the accuracy and the learning rate."""
        if self.writer is None:
            return
        for name, value in record.items():
            if name != "epoch":
                group = name if name in ("accuracy", "lr", "loss") else f"loss/{name}"
                self.writer.add_scalar(group, value, record["epoch"])
        self.writer.flush()

    def __enter__(self) -> Scalars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()
