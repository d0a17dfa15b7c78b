"""Loss terms and training accuracy over the epochs, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NOT_TERMS = ("epoch", "lr", "accuracy", "loss")


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG from the records of `metrics.jsonl`."""
    from matplotlib.figure import Figure

    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [record["loss"] for record in history], color="black", label="sum")
    for name in [name for name in history[0] if name not in NOT_TERMS]:
        left.plot(epochs, [record[name] for record in history], label=name, linewidth=1)
    left.set(xlabel="epoch", ylabel="loss (weighted terms)", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(epochs, [100 * record["accuracy"] for record in history], color="black")
    right.set(xlabel="epoch", ylabel="training accuracy, %", ylim=(0, 100))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
