"""What attri-train does with its options: train one prompt, or compare methods under a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.train import pocket
from attri.train.config import METHODS, Method, Protocol
from attri.train.data import Dataset, read_data, read_target
from attri.train.evaluation import benchmark, protocols
from attri.train.fitting import fit
from attri.train.model.backbone import Backbone, load_backbone
from attri.train.options import TrainOptions
from attri.train.report.learning_curve import advice
from attri.train.training import distributed
from attri.train.training.features import FeatureCache
from attri.train.training.progress import Progress
from attri.train.training.run_folder import RUNS


def train_prompt(options: TrainOptions, device: torch.device, progress: Progress) -> None:
    """Train one prompt and print its accuracy."""
    dataset = read_data(options.data or pocket.IMAGES, shots=options.single_shots, seed=options.seed)
    prompt, config = options.prompt_config(), options.train_config(dataset.template)
    backbone = _load(options, device)
    counts = f"{plural(len(dataset.classes), 'class')}, {plural(len(dataset.train), 'image')}"
    progress.say(f"{backbone.name} on {device}: {counts} from {dataset.root}")
    run = fit(
        dataset,
        backbone,
        prompt,
        config,
        options.output,
        FeatureCache(progress),
        options.tensorboard,
        curve=options.learning_curve,
    )
    _print_results(run)


def compare_methods(options: TrainOptions, device: torch.device, progress: Progress) -> None:
    """Train and score every method under --protocol and print the table."""
    assert options.protocol is not None
    if options.datasets:
        _run_published(options, options.protocol, device, progress)
        return
    spec = protocols.ProtocolSpec(
        options.protocol,
        lambda seed, shots: _read(options, seed, shots),
        tuple(read_target(target) for target in _targets(options)),
        *_what_is_compared(options),
    )
    prompt, config = options.prompt_config(), options.train_config(_read(options, 1, 1).template)
    _print_results(protocols.run(spec, _load(options, device), prompt, config, options.output, progress))


def list_models(word: str) -> None:
    """Print open_clip's models with this word in their names or tags.

    Raises:
        UsageError: there is none.
    """
    from attri.train.model.catalogue import entries

    found = entries(word)
    if not found:
        raise UsageError(f"no model of open_clip has {word!r} in its name or tags: --list-models alone lists all")
    for entry in found:
        click.echo(entry.lines())
    supported = sum(not entry.refusal for entry in found)
    click.echo(f"{plural(len(found), 'model')}, {supported} supported", err=True)


def _run_published(options: TrainOptions, protocol: Protocol, device: torch.device, progress: Progress) -> None:
    """Run the published datasets below --data and print their table."""
    assert options.data is not None
    names = () if options.datasets == ("all",) else options.datasets
    folders, missing = benchmark.find(options.data, protocol, names)
    chosen = benchmark.Benchmark(protocol, folders, missing, *_what_is_compared(options))
    backbone = _load(options, device)
    folder = options.output or RUNS / f"{protocol}-{backbone.file_name}-{options.data.resolve().name}"
    benchmark.run(chosen, backbone, options.prompt_config(), options.train_config, folder, progress)
    if distributed.rank() == 0:
        click.echo((folder / "results.md").read_text(encoding="utf-8"))


def _what_is_compared(options: TrainOptions) -> tuple[tuple[Method, ...], tuple[int, ...], tuple[int, ...]]:
    """Methods, seeds and shots of a protocol."""
    shots = protocols.FEW_SHOTS if options.protocol == "few-shot" else (protocols.SHOTS,)
    return options.method or METHODS, options.seeds or (1, 2, 3), options.shots or shots


def _read(options: TrainOptions, seed: int, shots: int) -> Dataset:
    return read_data(options.data or pocket.IMAGES, shots=shots, seed=seed)


def _targets(options: TrainOptions) -> tuple[Path, ...]:
    """The --target datasets; the pocket set has a second style to generalize to."""
    if options.protocol == "domain-generalization" and not options.data and not options.target:
        return (pocket.OTHER_STYLE.parent,)
    return options.target


def _load(options: TrainOptions, device: torch.device) -> Backbone:
    backbone = load_backbone(options.model, options.pretrained)
    backbone.clip.to(device)
    return backbone


def _print_results(folder: Path) -> None:
    """Print a run's results as a small table on stdout, on rank 0."""
    if distributed.rank() > 0:
        return
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if "protocol" in results:
        click.echo((folder / "results.md").read_text(encoding="utf-8"))
    for part in ("val", "test"):
        if part in results:
            row = results[part]
            accuracy = f"zero-shot {row['zero_shot']:6.1%}   prompted {row['prompted']:6.1%}"
            click.echo(f"{part:<5} {plural(row['images'], 'image'):>14}   {accuracy}")
    if "learning_curve" in results:
        click.echo(f"curve {advice(results['learning_curve'])}")
    if "pool_alive" in results:
        alive = results["pool_alive"]
        shares = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(alive), max(alive))))
        click.echo(f"pool  {shares} of the pool entries are in use")
    click.echo(f"run   {folder}")
