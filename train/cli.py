"""attri-train: from a folder of pictures to a trained prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attri.runtime.command import Command


@click.command(cls=Command)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder per class, or train/val/test of those. [pocket set]"
)
@click.option("--model", default="pocket", show_default=True, help="open_clip model name, or the embedded pocket.")
@click.option("--pretrained", metavar="TAG|FILE", help="open_clip tag or weights file of --model.")
@click.option("--shots", type=int, metavar="N", help="Training pictures per class. [all]")
@click.option("--epochs", type=int, default=40, show_default=True)
@click.option("--batch", type=int, default=32, show_default=True, help="Pictures per step.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--lr", type=float, default=2e-3, show_default=True, help="Peak learning rate; cosine to 0.")
@click.option("--views", type=int, default=8, show_default=True, help="Cached augmented views per picture.")
@click.option("--template", default="a photo of a {}.", show_default=True, help="Prompt; the label goes into {}.")
@click.option("--clusters", type=int, default=2, show_default=True, help="Cluster centres per picture and block.")
@click.option("--lloyd-steps", type=int, default=1, show_default=True, help="k-means steps.")
@click.option(
    "--start", type=click.Choice(["grid", "farthest"]), default="grid", show_default=True, help="k-means start."
)
@click.option("--pool-size", type=int, default=16, show_default=True, help="Entries per prompt pool.")
@click.option("--topk", type=int, default=1, show_default=True, help="Entries that a centre retrieves.")
@click.option("--prompt-length", type=int, default=2, show_default=True, help="Prompt tokens per entry.")
@click.option(
    "--static-tokens", type=int, default=0, show_default=True, help="Deep prompt tokens that all pictures see."
)
@click.option("--depth", type=int, help="Prompted text blocks, from the first on. [all]")
@click.option("--shared", is_flag=True, help="One pool for all blocks.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Run folder. [runs/MODEL-DATA-NUMBER]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.version_option(package_name="attri")
def main(
    data: Path | None, model: str, pretrained: str | None, output: Path | None, device: str, **options: Any
) -> None:
    """Learn an AttriPrompt on a frozen CLIP. Without options: the embedded pictures and backbone, offline."""
    from attri.train import pocket
    from attri.train.backbone import load_backbone
    from attri.train.config import PromptConfig, TrainConfig
    from attri.train.data import read_folder
    from attri.train.fit import fit, pick_device
    from attri.train.progress import Progress

    prompt = PromptConfig(**{name: options.pop(name) for name in list(options) if hasattr(PromptConfig, name)})
    config = TrainConfig(**options)
    dataset = read_folder(data or pocket.IMAGES, config.holdout, config.shots, config.seed)
    target = pick_device(device)
    if model != pocket.MODEL and not pretrained:
        raise click.UsageError(f"--model {model} needs --pretrained: an untrained CLIP has nothing to prompt")
    backbone = load_backbone(model, pretrained)
    backbone.clip.to(target)
    count = len(dataset.train)
    click.echo(f"{model} on {target}: {len(dataset.classes)} classes, {count} pictures from {dataset.root}", err=True)
    try:
        folder = fit(dataset, backbone, prompt, config, output, Progress())
    except KeyboardInterrupt:
        click.echo("stopped: the same command goes on after the last whole epoch", err=True)
        raise
    report(folder)


def report(folder: Path) -> None:
    """The result, as a small table on stdout."""
    import json

    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for part in ("val", "test"):
        if part in results:
            row = results[part]
            accuracy = f"zero-shot {row['zero_shot']:6.1%}   prompted {row['prompted']:6.1%}"
            click.echo(f"{part:<5} {row['pictures']:>5} pictures   {accuracy}")
    alive = results["pool_alive"]
    click.echo(f"pool  {min(alive):.0%} to {max(alive):.0%} of the entries of a block are in use")
    click.echo(f"run   {folder}")


if __name__ == "__main__":
    main()
