"""What the fold is worth in training: one step of the literal model and one of attri, time and peak memory.

    python benchmarks/training.py [--model ViT-B-16] [--classes 50] [--batch 4] [--threads 2] [--rounds 5]

The literal model runs the image tower, concatenates the prompts to 77 tokens per class and image in open_clip's own
blocks, and backpropagates. attri reads cached features and runs the folded encoder. Both see the same pictures, take
the same loss, and must give the same gradients, or the script fails. Times are of steps in turn in one process; peak
memory is that of a process of its own for each. Weights are random: neither depends on them. The table is kept in
benchmarks/training.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attri.runtime.prompts import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train import losses, pocket
from attri.train.backbone import load_backbone
from attri.train.config import TEMPLATE, PromptConfig
from attri.train.model import AttriPrompt

ADJECTIVES = ["red", "green", "small", "old", "wooden", "striped", "shiny", "broken", "wet", "ripe", "blue", "large"]
NOUNS = ["apple", "bottle", "car", "dog", "chair", "bird", "flower", "shoe", "bridge", "teapot", "tree", "fishing boat"]
PLACES = ["", " at night", " in the snow", " on a table", " by the sea", " in a museum", " under water"]
STAGES = ("literal", "folded", "many")


class Setting:
    """The model, real pictures, and what both sides need of them."""

    def __init__(self, model: str, classes: int, batch: int) -> None:
        torch.manual_seed(0)
        self.model = AttriPrompt(load_backbone(model), PromptConfig())
        names = [f"{a} {n}{p}" for p in PLACES for n in NOUNS for a in ADJECTIVES][:classes]
        assert len(names) == classes, f"there are {len(names)} names"
        self.words = encode_labels(Tokenizer(), names, TEMPLATE)
        self.targets = torch.arange(batch) * classes // batch
        files = sorted((pocket.IMAGES / "test").glob("*/*.png"))[:: 160 // batch][:batch]
        preprocess = self.model.backbone.preprocess()
        self.pixels = torch.from_numpy(np.stack([preprocess(file) for file in files]))
        with torch.no_grad():
            self.features, self.centres = self.model.encode_image(self.pixels)
        self.optimizer = torch.optim.SGD(self.model.pool.parameters(), lr=0.0)  # the same gradients in every round

    def finish(self, features: Tensor, text: Tensor) -> Tensor:
        loss = losses.class_stream(self.model.logits(features, text), self.targets).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self.model.pool.tokens.grad

    def folded(self) -> Tensor:
        text = self.model.encode_text(self.words, self.model.pool.retrieve(self.centres))
        return self.finish(self.features, text)

    def literal(self) -> Tensor:
        with torch.no_grad():
            features, centres = self.model.encode_image(self.pixels)
        return self.finish(features, self.literal_text(self.model.pool.retrieve(centres)))

    def literal_text(self, retrieved: Tensor) -> Tensor:
        """[B, L, M] -> [B, C, D], every image with every class as a sequence of its own."""
        clip, tokens = self.model.backbone.clip, self.model.pool.tokens_of_blocks()
        ids = torch.zeros(len(self.words), 77, dtype=torch.long)
        for row, whole in zip(ids, self.words.whole(), strict=True):
            row[: len(whole)] = torch.tensor(whole)
        B, C = len(retrieved), len(ids)
        x = (clip.token_embedding(ids) + clip.positional_embedding).repeat(B, 1, 1)  # [B C, 77, W]
        for index, block in enumerate(clip.transformer.resblocks):
            prompts = tokens[index][retrieved[:, index]].flatten(1, 2).repeat_interleave(C, 0)  # [B C, M p, W]
            x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
            x = block(x, attn_mask=torch.full((x.shape[1],) * 2, -torch.inf).triu(1))
            x = torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], 1)
        x = clip.ln_final(x)[torch.arange(B * C), ids.argmax(1).repeat(B)] @ clip.text_projection
        return nn.functional.normalize(x, dim=-1).reshape(B, C, -1)


def peak(stage: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Peak memory of one side in a process of its own, and what of it steps add to the loaded model, in GiB."""
    options = ["--stage", stage, "--model", arguments.model, "--threads", str(arguments.threads)]
    options += ["--classes", str(arguments.classes), "--batch", str(arguments.batch)]
    done = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(stage: str, arguments: argparse.Namespace) -> None:
    many = stage == "many"
    setting = Setting(arguments.model, 1000 if many else arguments.classes, 8 if many else arguments.batch)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    step = setting.literal if stage == "literal" else setting.folded
    step()
    seconds = timed(step) / 1000
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"memory": memory, "step": memory - loaded, "seconds": seconds}))


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.stage:
        measure(arguments.stage, arguments)
        return

    peaks = {stage: peak(stage, arguments) for stage in STAGES}
    assert peaks["many"]["memory"] < 16, "1000 classes at batch 8 do not fit in 16 GB"
    setting = Setting(arguments.model, arguments.classes, arguments.batch)
    ours, theirs = setting.folded().clone(), setting.literal().clone()
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference < 1e-4, f"the gradients differ by {difference}"
    times = np.array([[timed(setting.literal), timed(setting.folded)] for _ in range(arguments.rounds)])
    literal, folded = np.median(times, 0)
    ratio = np.median(times[:, 0] / times[:, 1])

    slow, fast, many = (peaks[stage] for stage in STAGES)
    lines = [
        f"{arguments.model}, {arguments.classes} classes, batch {arguments.batch}, PyTorch {torch.__version__}, CPU"
        f" ({platform.machine()}), {arguments.threads} threads, float32, {arguments.rounds} rounds in turn.",
        f"Largest difference of the prompts' gradients, over their largest value: {difference:.1e}.",
        "",
        "| | ms a step | memory that steps add, GiB | peak of the process, GiB |",
        "|---|---|---|---|",
        f"| literal: image tower, 77 tokens | {literal:.0f} | {slow['step']:.2f} | {slow['memory']:.2f} |",
        f"| attri: cached features, folded | {folded:.0f} | {fast['step']:.2f} | {fast['memory']:.2f} |",
        f"| ratio | {ratio:.1f} | {slow['step'] / fast['step']:.1f} | {slow['memory'] / fast['memory']:.1f} |",
        "",
        f"1,000 classes at batch 8: peak {many['memory']:.2f} GiB, {many['seconds']:.0f} s a step. PyTorch and the"
        f" frozen model alone take {fast['memory'] - fast['step']:.2f} GiB.",
    ]
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
