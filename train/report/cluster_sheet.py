"""The cluster sheet: an image's k-means clusters, block by block, beside the pool entries that they retrieve.

What a pool entry stands for is read off the training images: the classes that retrieve it. The nearest words of a deep
prompt would say little, since its tokens never stand where words do.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.retrieval import nearest_centre
from attri.train.report.plots import COLOURS, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2  # of blocks on the sheet
WIDTH = 4.9  # of a column, inches
SIDE = 1.6  # of an image, inches
LINE = 0.17  # height of a line of text, inches


@dataclass(frozen=True)
class BlockClusters:
    """One image in one prompted text block.

    Attributes:
        source: vision block (1-based) whose patches are clustered.
        clusters: int64 [h, w], the most similar centre of each patch, as scikit-learn's `labels_`.
        entries: int64 [K, k], the pool entries that each centre retrieves, the most similar first.
        cosines: [K, k], of centre and key.
    """

    source: int
    clusters: Tensor
    entries: Tensor
    cosines: Tensor


def usage_by_class(retrieved: Tensor, targets: Tensor, classes: int, size: int) -> Tensor:
    """Return the share of a class's retrievals that each pool entry gets.

    retrieved [I, L, M], targets [I] -> float64 [C, L, N]

    Every block of a class sums to 1, or to 0 where the class has no image.
    """
    blocks = retrieved.shape[1]
    rows = targets[:, None] * blocks + torch.arange(blocks, device=targets.device)  # [I, L], class and block
    cells = rows[:, :, None].to(retrieved.device) * size + retrieved  # [I, L, M]
    counts = torch.bincount(cells.flatten(), minlength=classes * blocks * size).reshape(classes, blocks, size).double()
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)


@torch.no_grad()
def cluster_blocks(model: AttriPrompt, image: Image.Image) -> list[BlockClusters]:
    """Cluster and retrieve for one image with the model's own parts; one view per prompted text block, L in all."""
    keys = model.pool.keys_of_blocks()  # [L, N, D]
    tower, retrieval = model.vision.tower, model.vision.retrieval
    assert retrieval is not None
    pixels = torch.from_numpy(model.backbone.preprocess()(image)[None]).to(model.backbone.token_embedding)
    states = dict(enumerate(tower.states(pixels), start=1))
    centres = torch.stack([retrieval(states[source], tower)[0] for source in model.vision.sources])
    entries = model.pool.retrieve(centres[:, :, None].transpose(0, 1)).transpose(0, 1)  # [L, K, k], a centre at a time
    cosines = (centres @ keys.to(centres.dtype).transpose(1, 2)).gather(-1, entries)  # [L, K, k]
    cosines, order = cosines.sort(dim=-1, descending=True, stable=True)
    views = []
    for block, source in enumerate(model.vision.sources):
        tokens, found = retrieval.cluster(states[source], tower)
        clusters = nearest_centre(tokens[:, tower.prefix :], found).reshape(tower.grid)
        views.append(
            BlockClusters(source, clusters.cpu(), entries[block].gather(-1, order[block]).cpu(), cosines[block].cpu())
        )
    return views


def draw_clusters(
    model: AttriPrompt, image: Image.Image, classes: list[str], usage: Tensor, path: Path, caption: str = ""
) -> None:
    """A sheet as PNG: per prompted block the image with its clusters, and beside it what each retrieves.

    Args:
        model: with a pool.
        image: any size; drawn as the model sees it.
        classes: C names.
        usage: of `usage_by_class` on the training images [C, L, N].
        path: PNG file to write.
        caption: what the image is: its file or class, say.
    """
    from matplotlib.figure import Figure

    views = cluster_blocks(model, image)
    square = Image.fromarray(model.backbone.preprocess().pixels(image))
    retrieved = views[0].entries.numel()  # K k
    lines = 3 if 3 * retrieved * LINE <= SIDE else 2  # for each entry
    height = max(SIDE, lines * retrieved * LINE) + 0.45
    rows = math.ceil(len(views) / COLUMNS)
    figure = Figure(figsize=(COLUMNS * WIDTH, SIDE + 0.5 + rows * height))
    axes = figure.add_axes((0, 0, 1, 1))  # the sheet, measured in inches from its upper left corner
    axes.set_axis_off()
    axes.imshow(square, extent=(0.15, 0.15 + SIDE, 0.15 + SIDE, 0.15))
    axes.text(SIDE + 0.35, 0.15, short(caption, 90), fontsize=9, va="top", weight="bold", parse_math=False)
    legend = _legend(model.config.clusters, model.config.topk, len(classes))
    axes.text(SIDE + 0.35, 0.15 + 1.3 * LINE, legend, fontsize=9, va="top")
    for block, one in enumerate(views):
        x, y = 0.15 + block % COLUMNS * WIDTH, SIDE + 0.5 + block // COLUMNS * height
        axes.text(x, y, f"text block {block + 1}", weight="bold", fontsize=9, va="top")
        axes.text(x + 1.1, y, f"patches after vision block {one.source}", fontsize=8, va="top", color="#555555")
        _draw_image(axes, square.convert("L"), one.clusters.numpy(), x, y + 0.22)
        _write_entries(axes, one, classes, usage[:, block], lines, x + SIDE + 0.12, y + 0.22)
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0), aspect="auto")
    save(figure, path)


def _legend(clusters: int, topk: int, classes: int) -> str:
    prompts = "one prompt" if topk == 1 else f"{topk} prompts"
    groups = "one cluster" if clusters == 1 else f"{clusters} clusters"
    return (
        f"The image as the model sees it. In every block its patches fall into {groups},\n"
        f"and each cluster retrieves {prompts} from the pool. Below an entry stand the\n"
        "classes whose training images retrieve it most, with their share of its retrievals\n"
        "(every class counts the same): what the entry has come to stand for.\n"
        f"An entry that all classes retrieve alike would have {1 / classes:.1%} for each."
    )


def _draw_image(axes: Axes, gray: Image.Image, clusters: NDArray[np.int64], x: float, y: float) -> None:
    """The image at x, y with its clusters [h, w] in colour, outlined and numbered."""
    from matplotlib.collections import LineCollection

    height, width = clusters.shape
    extent = (x, x + SIDE, y + SIDE, y)
    axes.imshow(gray, extent=extent, cmap="gray", vmin=0, vmax=255)
    axes.imshow(_colour(clusters), extent=extent, alpha=0.5, interpolation="nearest")
    step = SIDE / np.array([width, height])  # of a patch, x and y
    upright = [((c + 1, r), (c + 1, r + 1)) for r, c in np.argwhere(clusters[:, 1:] != clusters[:, :-1])]
    level = [((c, r + 1), (c + 1, r + 1)) for r, c in np.argwhere(clusters[1:] != clusters[:-1])]
    borders = (np.array(upright + level).reshape(-1, 2, 2) * step + (x, y)).tolist()
    axes.add_collection(LineCollection(borders, colors="white", linewidths=1))
    for cluster in np.unique(clusters):
        patches = np.argwhere(clusters == cluster)
        row, column = patches[((patches - patches.mean(0)) ** 2).sum(1).argmin()] + 0.5  # its most central patch
        _number(axes, int(cluster), x + column * step[0], y + row * step[1])


def _write_entries(
    axes: Axes, one: BlockClusters, classes: list[str], usage: Tensor, lines: int, x: float, y: float
) -> None:
    """Beside the image: per cluster its entries, their cosines and the classes that use them. usage [C, N]."""
    for cluster, (entries, cosines) in enumerate(zip(one.entries.tolist(), one.cosines.tolist(), strict=True)):
        _number(axes, cluster, x + 0.1, y + 0.09)
        empty = "" if (one.clusters == cluster).any() else ", no patch"
        for entry, cosine in zip(entries, cosines, strict=True):
            axes.text(x + 0.25, y, f"entry {entry}, cosine {cosine:.2f}{empty}", fontsize=8, va="top")
            users = textwrap.wrap(_users(usage[:, entry], classes), 46, max_lines=lines - 1, placeholder=" …")
            axes.text(x + 0.25, y + LINE, "\n".join(users), fontsize=7, va="top", color="#555555", parse_math=False)
            y += lines * LINE


def _users(shares: Tensor, classes: list[str], most: int = 3) -> str:
    """The classes that retrieve an entry most, from its share in the retrievals of each class [C]."""
    total = float(shares.sum())
    if total == 0:
        return "no training image retrieves it"
    order = shares.argsort(descending=True, stable=True)[:most].tolist()
    users = [f"{short(classes[c])} ({float(shares[c]) / total:.0%})" for c in order if shares[c] > 0]
    return ", ".join(user.replace(" ", "\xa0") for user in users)  # lines break between users only


def _number(axes: Axes, cluster: int, x: float, y: float) -> None:
    """The cluster's number, from 1, on its colour: there are more clusters than colours, and readers who see few."""
    patch = {"boxstyle": "circle,pad=0.2", "facecolor": COLOURS[cluster % len(COLOURS)], "edgecolor": "white"}
    axes.text(x, y, str(cluster + 1), fontsize=7, weight="bold", ha="center", va="center", color="white", bbox=patch)


def _colour(clusters: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[h, w] -> RGB [h, w, 3]."""
    palette = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS], np.uint8)
    return palette[clusters % len(palette)]
