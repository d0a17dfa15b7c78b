"""Plots of a run as PNG files: curves over the epochs, confusion matrix, and pool usage.

Colours are those of Okabe and Ito and sequential maps, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import math
import warnings
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attri.train.training.run_folder import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOT_TERMS = ("epoch", "lr", "accuracy", "loss")
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's, but yellow
DEAD = "#D55E00"
NAMED = 60  # classes whose names still fit along an axis
COUNTED = 30  # classes whose counts still fit into the squares
SQUARES = 250  # the most squares along an axis; more would be thinner than two pixels
DPI = 150  # pixels per inch
LONGEST = 26  # letters of a class name in a plot; the report has it whole


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draw loss terms and training accuracy over the epochs, from the records of `metrics.jsonl`; one or more."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10, 3.4)
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    mark = "o" if len(epochs) < 15 else ""  # a single epoch makes no line
    left.plot(epochs, [record["loss"] for record in history], color="black", marker=mark, markersize=3, label="sum")
    names = dict.fromkeys(name for record in history for name in record if name not in NOT_TERMS)
    for name, colour, dash in zip(names, cycle(COLOURS), cycle(["-", "--", "-.", ":"]), strict=False):
        values = [record.get(name, math.nan) for record in history]
        left.plot(epochs, values, dash, color=colour, marker=mark, markersize=3, linewidth=1.3, label=name)
    left.set(xlabel="epoch", ylabel="loss (weighted terms)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    accuracy = [100 * record["accuracy"] for record in history]
    right.plot(epochs, accuracy, color="black", marker=mark, markersize=3)
    right.set(xlabel="epoch", ylabel="training accuracy, %", ylim=(0, 100))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    save(figure, path)


def draw_learning_curve(curve: dict[str, Any], path: Path) -> None:
    """Draw accuracy over the images per class, with 95% intervals; `curve` is of `learning_curve`."""
    figure = new_figure(5, 3.2)
    axes = figure.subplots()
    shots = [point["shots"] for point in curve["points"]]
    accuracy = np.array([100 * point["accuracy"] for point in curve["points"]])
    low, high = 100 * np.array([point["interval"] for point in curve["points"]]).T
    axes.errorbar(shots, accuracy, (accuracy - low, high - accuracy), color=COLOURS[0], marker="o", capsize=4)
    axes.set(xlabel="training images per class", ylabel=f"{curve['part']} accuracy, %", xlim=(0, None), ylim=(0, 100))
    axes.set_xticks(shots)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def draw_confusion(confusion: NDArray[Any], classes: list[str], path: Path) -> None:
    """Draw the confusion matrix. confusion [C, C]: counts, row = truth, column = prediction; C from 2 on.

    Shades are shares of a row. Names are written for up to 60 classes. Above 250 a square holds several classes each
    way and shows the largest share among them, so that a single confusion stays visible.
    """
    count = len(classes)
    images = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, images, where=images > 0, out=np.full(confusion.shape, np.nan))  # [C, C]
    per_square = math.ceil(count / SQUARES)
    side = 6.5 if count > NAMED else max(1.6, count * (0.3 if count <= COUNTED else 0.165))
    margin = 1.0 if count > NAMED else 0.8 + 0.075 * max(len(short(name)) for name in classes)
    figure = new_figure(side + margin + 0.9, side + margin)
    axes = figure.subplots()
    drawn = largest(shares, per_square)
    end = len(drawn) * per_square + 0.5
    _shade(figure, axes, drawn, "share of the class's images", extent=(0.5, end, end, 0.5), full=1.0)
    axes.set(xlabel="predicted class", ylabel="true class", xlim=(0.5, count + 0.5), ylim=(count + 0.5, 0.5))
    if count <= NAMED:
        names, places = [short(name) for name in classes], range(1, count + 1)
        axes.set_xticks(places, names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(places, names, fontsize=7, parse_math=False)
    else:
        square = f"; a square holds {per_square} x {per_square} classes and shows their largest share"
        axes.set_title(f"{count} classes by number{square if per_square > 1 else ''}", fontsize=8)
    if count <= COUNTED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            ink = "white" if shares[row, column] > 0.35 else "black"
            axes.text(column + 1, row + 1, str(confusion[row, column]), color=ink, ha="center", va="center", fontsize=7)
    save(figure, path)


def draw_usage(usage: NDArray[Any], path: Path) -> None:
    """Draw the use of the pool.

    usage [L, N]: share of a block's retrievals that each pool entry gets, rows sum to 1; L = 1 is a shared pool.

    Dead entries, which no training image retrieves, stand out in another colour and, where there is room, by a cross.
    """
    from matplotlib.ticker import MaxNLocator

    blocks, size = usage.shape
    figure = new_figure(9, 1.3 + 0.27 * blocks)
    axes = figure.subplots()
    _shade(figure, axes, np.where(usage > 0, usage, np.nan), "share of retrievals", empty=DEAD)
    rows, columns = np.nonzero(usage == 0)
    if size <= 64:
        axes.scatter(columns, rows, marker="x", color="white", s=18, linewidths=1.2)
    names = ["all"] if blocks == 1 else [str(block) for block in range(1, blocks + 1)]
    axes.set_yticks(range(blocks), names, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(size if size <= 32 else 12, integer=True))
    axes.set(xlabel="pool entry", ylabel="text block", aspect="auto")
    axes.set_title(
        f"{len(rows)} of {usage.size} pool entries are dead (orange): no training image retrieves them"
        if len(rows)
        else f"all {usage.size} pool entries are in use",
        fontsize=9,
    )
    right = axes.secondary_yaxis("right")
    alive = (usage > 0).sum(1)
    right.set_yticks(range(blocks), [f"{number}/{size} in use" for number in alive], fontsize=8)
    right.tick_params(length=0)
    save(figure, path)


def _shade(
    figure: Figure,
    axes: Axes,
    shares: NDArray[Any],
    label: str,
    extent: tuple[float, float, float, float] | None = None,
    full: float | None = None,
    empty: str = "#D9D9D9",
) -> None:
    """A map of shares with its bar. The square root of a share sets the shade, as small ones matter; NaN is empty."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    shades = colormaps["Blues"].with_extremes(bad=empty)
    top = float(np.nanmax(shares, initial=0)) if full is None else full
    image = axes.imshow(shares, cmap=shades, norm=PowerNorm(0.5, 0, top or 1), extent=extent, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), shrink=0.8, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def largest(shares: NDArray[Any], per_square: int) -> NDArray[Any]:
    """The largest value of every per_square x per_square part; NaN only where a part has no other. [C, C] -> [S, S]."""
    side = math.ceil(len(shares) / per_square)
    padding = side * per_square - len(shares)
    parts = np.pad(shares, (0, padding), constant_values=np.nan).reshape(side, per_square, side, per_square)
    most = np.nan_to_num(parts, nan=-1).max((1, 3))  # [S, S]
    return np.where(most < 0, np.nan, most)


def short(name: str, longest: int = LONGEST) -> str:
    """Cut a long name in the middle and replace what a font renderer cannot take."""
    name = name.encode(errors="replace").decode()
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-((longest - 1) // 2) :]}"


def new_figure(width: float, height: float) -> Figure:
    """width, height: inches. Not by pyplot, which keeps figures and picks a window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of `DPI` pixels per inch.

    Raises:
        FailedError: it cannot be written.
    """
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a letter that no font here has becomes a box
        figure.savefig(data, dpi=DPI, format="png", metadata={"Software": None})
    write_file(path, data.getvalue())
