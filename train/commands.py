"""What attri-train does with its options: train one prompt, or compare methods under a protocol."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import click
import torch

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.train import pocket
from attri.train.config import METHODS, Method, Protocol, TrainConfig, has_own_weights
from attri.train.data import Dataset, read_data, read_target
from attri.train.data.added import join, read_added
from attri.train.data.dataset import hold_out
from attri.train.evaluation import benchmark, protocols
from attri.train.fitting import fit
from attri.train.incremental import Start, read_start
from attri.train.model.backbone import Backbone, load_backbone
from attri.train.options import TrainOptions
from attri.train.report.comparison import says
from attri.train.report.learning_curve import advice
from attri.train.training import distributed
from attri.train.training.features import FeatureCache
from attri.train.training.progress import Progress
from attri.train.training.run_folder import RUNS

UNNAMED = ("", "embedded", "own", "random")  # weights of a backbone that no tag or file stands for


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


def train_from_prompt(options: TrainOptions, given: Collection[str], device: torch.device, progress: Progress) -> None:
    """Train the prompt of --from on with the images of --add, and compare it with what it was.

    Args:
        options: of the command line.
        given: names of those that it holds.
        device: to train on.
        progress: what is shown.
    """
    assert options.start is not None
    start = read_start(options.start, **options.retrieval_of(given))
    dataset = _added(options, start)
    config = options.incremental_config(start.template, start.frozen_templates)
    backbone = _backbone_of(options, given, start, device)
    fresh = dataset.classes[start.known :]
    counts = f"{plural(len(dataset.train), 'image')} to learn, {len(dataset.test)} to compare on"
    new = f", new {', '.join(fresh)}" if fresh else ""
    progress.say(f"{backbone.name} on {device}, from {start.path}: {plural(start.known, 'class')}{new}; {counts}")
    store = FeatureCache(progress)
    run = fit(
        dataset, backbone, start.config, config, options.output, store, options.tensorboard, start=start, release=True
    )
    _print_results(run)


def _added(options: TrainOptions, start: Start) -> Dataset:
    """The images of --add, of --data where it is given, and those to compare on: of --test, or held out.

    Raises:
        UsageError: there is nothing to learn, or --test has a class that nobody knows.
    """
    parts = [read_added(path) for path in options.add]
    if not options.test:
        parts = [part if part.test else hold_out(part, TrainConfig.holdout, options.seed) for part in parts]
    if options.data:
        parts.append(read_data(options.data, seed=options.seed))
    joined = replace(join(start.classes, parts), val=[])
    if not options.test:
        return joined
    test = read_added(options.test)
    if unknown := [name for name in test.classes if name not in joined.classes]:
        raise UsageError(f"{options.test} has images of {unknown[0]!r}, which neither the prompt nor --add knows")
    whole = join(joined.classes, [replace(test, test=test.test or [*test.train, *test.val])])
    return replace(joined, test=whole.test)


def _backbone_of(options: TrainOptions, given: Collection[str], start: Start, device: torch.device) -> Backbone:
    """The model that a prompt was learned on, by what the command line or the prompt says.

    Raises:
        UsageError: neither says where its weights are.
    """
    name = options.model if "model" in given else start.backbone["model"]
    known = start.backbone.get("pretrained", "")
    tag = options.pretrained or (known if known not in UNNAMED else None)
    if not tag and not has_own_weights(name):
        raise UsageError(f"{start.path} was learned on {name}: name its weights with --pretrained")
    backbone = load_backbone(name, None if has_own_weights(name) else tag)
    backbone.clip.to(device)
    return backbone


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
    if "comparison" in results:
        click.echo(f"says  {says(results['comparison'])}")
    if "learning_curve" in results:
        click.echo(f"curve {advice(results['learning_curve'])}")
    if "pool_alive" in results:
        alive = results["pool_alive"]
        shares = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(alive), max(alive))))
        click.echo(f"pool  {shares} of the pool entries are in use")
    click.echo(f"run   {folder}")
