"""Base-to-novel on the pocket set: zero-shot CLIP and AttriPrompt, over seeds, in one harness.

    python benchmarks/pocket.py [--seeds 3] [--shots 16]

Sorted classes, the first half (rounded up) is base. The prompt is trained on base pictures only; each half is scored
among its own classes, on test pictures of the same art style and of another one that nothing was trained on.
The table is kept in benchmarks/pocket.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch

from attri.train import features, pocket
from attri.train.backbone import load_backbone
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import Dataset, Picture, read_data
from attri.train.fit import embed_labels, new_trainer
from attri.train.loop import accuracy, predict
from attri.train.progress import Progress


def other_style(dataset: Dataset) -> Dataset:
    """The same classes, test pictures of the other style."""
    folders = {p.path.parent.name: p.target for p in dataset.train}
    pictures = [
        Picture(path, target)
        for name, target in folders.items()
        for path in sorted((pocket.OTHER_STYLE / name).glob("*.png"))
    ]
    return dataclasses.replace(dataset, test=pictures)


def score(model, dataset: Dataset, template: str) -> tuple[float, float]:
    """Zero-shot and prompted accuracy on the test pictures, in percent."""
    labels = embed_labels(model, dataset.classes, template)
    data = features.compute(model, dataset.test, 1, 0)
    plain = data.features[:, 0] @ model.plain_text(labels).T
    return 100 * accuracy(plain, data.targets), 100 * accuracy(predict(model, labels, data), data.targets)


def harmonic(base: float, novel: float) -> float:
    return 2 * base * novel / (base + novel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=16)
    arguments = parser.parse_args()

    backbone, scores = load_backbone(), {}
    for seed in range(1, arguments.seeds + 1):
        config = TrainConfig(seed=seed, shots=arguments.shots)
        base, novel = read_data(pocket.IMAGES, shots=arguments.shots, seed=seed).halves()
        trainer = new_trainer(backbone, base, PromptConfig(), config, Progress(quiet=True))
        trainer.run(lambda record: None, lambda t: None)
        for style, change in (("own style", lambda d: d), ("other style", other_style)):
            for half, data in (("base", base), ("novel", novel)):
                with torch.no_grad():
                    results = score(trainer.model, change(data), config.template)
                for method, value in zip(("zero-shot", "AttriPrompt"), results, strict=True):
                    scores.setdefault((style, method, half), []).append(value)
        print(f"seed {seed} done", flush=True)

    lines = [
        f"{len(base.classes)} base and {len(novel.classes)} novel classes, {arguments.shots} shots,"
        f" {arguments.seeds} seeds, default configuration; percent, mean (spread over seeds); HM of the means.",
        "",
        "| test pictures | method | base | novel | HM |",
        "|---|---|---|---|---|",
    ]
    for style in ("own style", "other style"):
        for method in ("zero-shot", "AttriPrompt"):
            b, n = (scores[style, method, half] for half in ("base", "novel"))
            means = statistics.mean(b), statistics.mean(n)
            spread = [f"{statistics.mean(x):.1f} ({statistics.pstdev(x):.1f})" for x in (b, n)]
            lines.append(f"| {style} | {method} | {spread[0]} | {spread[1]} | {harmonic(*means):.1f} |")
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("# " + __doc__.splitlines()[0] + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
