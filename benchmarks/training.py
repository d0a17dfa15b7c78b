"""Training with and without the fold: time and peak memory of a step.

    python -m benchmarks.training [--model ViT-B-16] [--classes 50] [--batch 4] [--threads 2] [--rounds 5]

The literal model runs the image tower, concatenates the prompts to 77 tokens per class and image in open_clip's own
blocks, and backpropagates. attri reads cached features and runs the folded encoder. Both see the same images, take
the same loss, and must give the same gradients, or the script fails. Times are of steps in turn in one process; peak
memory is that of a process of its own for each. The table is kept in benchmarks/training.md.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attri.runtime.images import list_images
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt, losses
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES
from benchmarks.common import in_turn, keep, names, peak_memory, process_status, timed
from benchmarks.literal import Literal, padded

MANY, FEW = 1000, 8  # classes, and images in a batch, that have to fit in a common machine
FIT = 16  # GiB


class Setting:
    """The model, real images, and what both sides need of them."""

    def __init__(self, model: str, classes: int, batch: int) -> None:
        torch.manual_seed(0)
        self.model = AttriPrompt(load_backbone(model), PromptConfig())
        self.words = encode_labels(Tokenizer(), names(classes), TEMPLATE)
        self.ids, self.encode = torch.from_numpy(padded(self.words)), Literal(self.model)
        self.targets = torch.arange(batch) * classes // batch
        files = list_images(IMAGES / "test")
        preprocess = self.model.backbone.preprocess()
        self.pixels = torch.from_numpy(np.stack([preprocess(file) for file in files[:: len(files) // batch][:batch]]))
        with torch.no_grad():
            self.features, self.centres = self.model.encode_image(self.pixels)
        self.optimizer = torch.optim.SGD(self.model.pool.parameters(), lr=0.0)  # the same gradients in every round

    def finish(self, features: Tensor, text: Tensor) -> Tensor:
        """Take the loss, step, and return the gradient of the prompts."""
        loss = losses.class_stream(self.model.logits(features, text), self.targets).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        gradient = self.model.pool.tokens.grad
        assert gradient is not None
        return gradient

    def folded(self) -> Tensor:
        """One training step on cached features with the folded encoder."""
        text = self.model.encode_text(self.words, self.model.pool.retrieve(self.centres))
        return self.finish(self.features, text)

    def literal(self) -> Tensor:
        """One training step with the image tower and the literal text encoder."""
        with torch.no_grad():
            features, centres = self.model.encode_image(self.pixels)
        return self.finish(features, self.encode(self.ids, self.model.pool.retrieve(centres)))


def use(side: str, model: str, classes: int, batch: int, threads: int) -> tuple[float, float, float]:
    """GiB resident when all is loaded, GiB at the peak of two steps, and the seconds of the second step."""
    torch.set_num_threads(threads)
    setting = Setting(model, classes, batch)
    loaded = process_status("VmRSS") / 2**20
    seconds = timed(getattr(setting, side), before=1) / 1000
    return loaded, peak_memory() / 2**10, seconds


def alone(*arguments: Any) -> tuple[float, float, float]:
    """`use` in a process of its own, started afresh, whose peak is nobody else's."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(use, *arguments).result()


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model, classes, batch, threads = arguments.model, arguments.classes, arguments.batch, arguments.threads
    torch.set_num_threads(threads)

    slow, slow_peak, _ = alone("literal", model, classes, batch, threads)
    fast, fast_peak, _ = alone("folded", model, classes, batch, threads)
    _, many_peak, many_seconds = alone("folded", model, MANY, FEW, threads)
    assert many_peak < FIT, f"{MANY} classes at batch {FEW} do not fit in {FIT} GiB"

    setting = Setting(model, classes, batch)
    ours, theirs = setting.folded().clone(), setting.literal().clone()
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    # Gradients are sums over all classes, images and blocks, in float32, and each side adds in another order.
    assert difference < 1e-4, f"the gradients differ by {difference}"
    turns = {side: partial(timed, getattr(setting, side)) for side in ("literal", "folded")}
    times: dict[str, NDArray[np.float64]] = {
        side: np.array(found) for side, found in in_turn(turns, arguments.rounds).items()
    }
    literal, folded = (float(np.median(found)) for found in times.values())
    ratio = np.median(times["literal"] / times["folded"])

    lines = [
        f"{model}, {classes} classes (ImageNet's names), batch {batch}, PyTorch {torch.__version__}, {threads} threads,"
        f" float32, {arguments.rounds} rounds in turn. Weights are random: time and memory do not depend on them.",
        f"Largest difference of the prompts' gradients, over their largest value: {difference:.1e}.",
        "",
        "| | ms a step | memory that steps add, GiB | peak of the process, GiB |",
        "|---|---|---|---|",
        f"| literal: image tower, 77 tokens | {literal:.0f} | {slow_peak - slow:.2f} | {slow_peak:.2f} |",
        f"| attri: cached features, folded | {folded:.0f} | {fast_peak - fast:.2f} | {fast_peak:.2f} |",
        f"| ratio | {ratio:.1f} | {(slow_peak - slow) / (fast_peak - fast):.1f} | {slow_peak / fast_peak:.1f} |",
        "",
        "Times are medians, and their ratio is the median of the ratios within a round. What steps add is the"
        f" peak less what is resident before them, {fast:.2f} GiB for PyTorch and the frozen model.",
        "",
        f"{MANY:,} classes at batch {FEW}, attri: peak {many_peak:.2f} GiB, {many_seconds:.0f} s a step.",
    ]
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
