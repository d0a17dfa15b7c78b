"""attri-train: from images to a trained prompt, or to a table that compares methods."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from attri.runtime._util.wording import plural
from attri.runtime.cli.command import Command
from attri.runtime.errors import FailedError, UsageError
from attri.train.config import METHODS, PROTOCOLS, TERMS


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers from 1 on, with commas between them."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r}: whole numbers from 1 on, with commas between them")
    return tuple(int(part) for part in parts)


IMAGES = click.Path(path_type=Path)
DATA = "Class folders, train/val/test of those, a CSV of path,label, or a CoOp dataset. [pocket set]"


class OneOfSeveral(Command):
    """A command that torchrun may have started, as one of several processes."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        try:
            super().main(*args, **kwargs)
        except SystemExit as stop:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                # Gloo's threads outlive their group, and now and then abort a process that ends in the usual way.
                sys.stderr.flush()
                os._exit(stop.code if isinstance(stop.code, int) else 1)
            raise


@click.command(cls=OneOfSeveral)
@click.option("--data", type=IMAGES, help=DATA)
@click.option("--model", default="pocket", show_default=True, help="open_clip model name, or the embedded pocket.")
@click.option(
    "--pretrained",
    metavar="TAG|FILE",
    help="open_clip tag or weights file of --model. A file of OpenAI's weights needs a model that ends in -quickgelu.",
)
@click.option(
    "--shots",
    callback=numbers,
    metavar="N[,N...]",
    help="Training images per class; several for few-shot. [all; protocols: 16]",
)
@click.option("--epochs", type=int, default=40, show_default=True, help="Passes over the training images.")
@click.option("--batch", type=int, default=32, show_default=True, help="Images per step, of all processes together.")
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "sgd"]),
    default="adamw",
    show_default=True,
    help="AdamW, or SGD with a momentum of 0.9.",
)
@click.option("--lr", type=float, default=2e-3, show_default=True, help="Peak learning rate; cosine to 0.")
@click.option("--views", type=int, default=8, show_default=True, help="Cached augmented views per image.")
@click.option("--template", help="Prompt; the label goes into {}. [the dataset's own, or 'a photo of a {}.']")
@click.option("--frozen-template", multiple=True, help="Averaged for the frozen features; may be repeated.")
@click.option(
    "--ensemble",
    is_flag=True,
    help="Frozen features over the seven templates that CLIP's authors chose, and --template where it is another.",
)
@click.option("--clusters", type=int, default=2, show_default=True, help="Cluster centres per image and block.")
@click.option("--lloyd-steps", type=int, default=1, show_default=True, help="k-means steps.")
@click.option(
    "--start", type=click.Choice(["grid", "farthest"]), default="grid", show_default=True, help="k-means start."
)
@click.option("--pool-size", type=int, default=16, show_default=True, help="Entries per prompt pool.")
@click.option("--topk", type=int, default=1, show_default=True, help="Entries that a centre retrieves.")
@click.option("--prompt-length", type=int, default=2, show_default=True, help="Prompt tokens per entry.")
@click.option("--static-tokens", type=int, default=0, show_default=True, help="Deep prompt tokens that all images see.")
@click.option("--depth", type=int, help="Prompted text blocks, from the first on. [all]")
@click.option(
    "--shared/--per-block", default=True, show_default=True, help="One pool for all text blocks, or one for each."
)
@click.option(
    "--weight", type=(click.Choice(TERMS), float), multiple=True, metavar="LOSS X", help="Weight of a loss; 0 is off."
)
@click.option("--without", type=click.Choice(TERMS), multiple=True, help="Leave a loss out; may be repeated.")
@click.option("--average", is_flag=True, help="Gaussian-weighted average of the prompts over the epochs.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the text encoder's products; what is learned stays fp32.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Of the first prompts, the views, the order and the held-out images.",
)
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="Compare methods instead of training one prompt.")
@click.option("--target", type=IMAGES, multiple=True, help="Another dataset to score; may be repeated. (protocols)")
@click.option("--seeds", callback=numbers, metavar="N[,N...]", help="(protocols) [1,2,3]")
@click.option("--method", type=click.Choice(METHODS), multiple=True, help="May be repeated. (protocols) [all]")
@click.option("--output", type=IMAGES, metavar="DIR", help="Run folder. [runs/MODEL-DATA-NUMBER]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes CUDA where PyTorch has it.",
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events into the run folder.")
@click.version_option(package_name="attri")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Learn an AttriPrompt on a frozen CLIP. Without options: the embedded images and backbone, offline.

    Several GPUs or processes: torchrun --nproc_per_node=N --no-python attri-train ...
    """
    check(ctx, options)
    from torch.cuda import OutOfMemoryError

    from attri.train.fit import pick_device
    from attri.train.training import distributed
    from attri.train.training.progress import Progress

    device = pick_device(options.pop("device"))
    with distributed.process_group(device):
        progress = Progress(quiet=distributed.rank() > 0)
        try:
            with distributed.report_once():
                (compare if options["protocol"] else train)(options, device, progress)
        except KeyboardInterrupt:
            progress.say("stopped: the same command goes on from here")
            raise
        except OutOfMemoryError as error:
            raise FailedError(f"{device} is out of memory: lower --batch (it is {options['batch']})") from error


def check(ctx: click.Context, options: dict[str, Any]) -> None:
    """Options that do not go together are refused before anything heavy is imported."""
    given = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name in ("target", "seeds", "method"):
        if name in given and not options["protocol"]:
            raise UsageError(f"--{name} goes with --protocol")
    for name in ("seed", "tensorboard"):
        if name in given and options["protocol"]:
            raise UsageError(f"--{name} does not go with --protocol" + (": say --seeds" if name == "seed" else ""))
    if options["shots"] and len(options["shots"]) > 1 and options["protocol"] != "few-shot":
        raise UsageError("several --shots go with --protocol few-shot")
    if options["ensemble"] and options["frozen_template"]:
        raise UsageError("--ensemble and --frozen-template both say which frozen features to take: choose one")
    if options["model"] != "pocket" and not options["pretrained"]:
        raise UsageError(f"--model {options['model']} needs --pretrained: an untrained CLIP has nothing to prompt")
    if options["tensorboard"]:
        import tensorboard  # noqa: F401 (missing? then better now than after encoding)


def configs(options: dict[str, Any], template: str) -> tuple[Any, Any]:
    """The PromptConfig and TrainConfig that the options say; `template` is the dataset's."""
    from attri.train.config import PromptConfig, TrainConfig
    from attri.train.data.templates import DEFAULT, ENSEMBLE

    prompt = {name: value for name, value in options.items() if hasattr(PromptConfig, name)}
    names = ("epochs", "batch", "optimizer", "lr", "views", "average", "precision", "seed")
    chosen: dict[str, Any] = {name: options[name] for name in names}
    chosen |= {f"weight_{name}": value for name, value in options["weight"]}
    chosen |= {f"weight_{name}": 0.0 for name in options["without"]}
    chosen["template"] = options["template"] or template
    usual: tuple[str, ...] = (chosen["template"], "a picture of a {}.", "a {}.")
    if options["ensemble"]:
        usual = ENSEMBLE if chosen["template"] == DEFAULT else (*ENSEMBLE, chosen["template"])
    chosen["frozen_templates"] = options["frozen_template"] or usual
    chosen["shots"] = options["shots"][0] if options["shots"] else None
    return PromptConfig(**prompt), TrainConfig(**chosen)


def load(options: dict[str, Any], device: Any) -> Any:
    from attri.train.model.backbone import load_backbone

    backbone = load_backbone(options["model"], options["pretrained"])
    backbone.clip.to(device)
    return backbone


def train(options: dict[str, Any], device: Any, progress: Any) -> None:
    from attri.train import pocket
    from attri.train.data.read import read_data
    from attri.train.fit import fit
    from attri.train.training.features import FeatureCache

    shots = options["shots"][0] if options["shots"] else None
    dataset = read_data(options["data"] or pocket.IMAGES, shots=shots, seed=options["seed"])
    prompt, config = configs(options, dataset.template)
    backbone, count = load(options, device), len(dataset.train)
    counts = f"{plural(len(dataset.classes), 'class')}, {plural(count, 'image')}"
    progress.say(f"{backbone.name} on {device}: {counts} from {dataset.root}")
    folder = fit(dataset, backbone, prompt, config, options["output"], FeatureCache(progress), options["tensorboard"])
    report(folder)


def compare(options: dict[str, Any], device: Any, progress: Any) -> None:
    from attri.train import pocket
    from attri.train.data.read import read_data, read_target
    from attri.train.evaluation import protocols

    def read(seed: int, shots: int) -> Any:
        return read_data(options["data"] or pocket.IMAGES, shots=shots, seed=seed)

    protocol = options["protocol"]
    targets = options["target"]
    if protocol == "domain-generalization" and not options["data"] and not targets:
        targets = (pocket.OTHER_STYLE.parent,)
    usual = protocols.FEW_SHOTS if protocol == "few-shot" else (protocols.SHOTS,)
    plan = protocols.ProtocolSpec(
        protocol,
        read,
        tuple(read_target(target) for target in targets),
        options["method"] or METHODS,
        options["seeds"] or (1, 2, 3),
        options["shots"] or usual,
    )
    prompt, config = configs(options, read(1, 1).template)
    folder = protocols.run(plan, load(options, device), prompt, config, options["output"], progress)
    report(folder)


def report(folder: Path) -> None:
    """The result, as a small table on stdout, from the first process."""
    import json

    from attri.train.training import distributed

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
    if "pool_alive" in results:
        alive = results["pool_alive"]
        shares = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(alive), max(alive))))
        click.echo(f"pool  {shares} of the entries are in use")
    click.echo(f"run   {folder}")


if __name__ == "__main__":
    main()
