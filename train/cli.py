"""The attri-train command: train a prompt on a folder of images, or compare methods under a protocol."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from attri.runtime.cli.command import DATA, MODEL, PROMPT, PROTOCOL, RUN, TEMPLATES, TRAINING, Command, option
from attri.runtime.errors import FailedError
from attri.train.config import DEVICES, KMEANS_INITS, METHODS, OPTIMIZERS, PRECISIONS, PROTOCOLS, TERMS
from attri.train.options import TrainOptions


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Parse whole numbers from 1 on, with commas between them; none where the option is not given."""
    if value is None:
        return ()
    parts = value.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r}: whole numbers from 1 on, with commas between them")
    return tuple(int(part) for part in parts)


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse words with commas between them."""
    words = () if value is None else tuple(word.strip() for word in value.split(","))
    if "" in words:
        raise click.BadParameter(f"{value!r}: names with commas between them")
    return words


_PATH = click.Path(path_type=Path)
_DATA = "Class folders, train/val/test of those, a CSV of path,label, or a CoOp dataset. [pocket set]"


class _DistributedCommand(Command):
    """A command that torchrun may have started as one of several processes."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        try:
            super().main(*args, **kwargs)
        except SystemExit as stop:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                # Gloo's threads outlive their group, and now and then abort a process that ends in the usual way.
                sys.stderr.flush()
                os._exit(stop.code if isinstance(stop.code, int) else 1)
            raise


@click.command(cls=_DistributedCommand)
@option(DATA, "--data", type=_PATH, help=_DATA)
@option(
    DATA,
    "--from",
    "start",
    type=_PATH,
    metavar="PROMPT",
    help="Start at the prompt of a file, bundle or run, keep what it knows, and learn --add; --data goes with it.",
)
@option(
    DATA,
    "--add",
    type=_PATH,
    multiple=True,
    metavar="FOLDER",
    help="With --from: a labelled folder of attri-run --collect, or images as of --data, of one class or more; may be"
    " repeated.",
)
@option(DATA, "--test", type=_PATH, help="With --from: labelled images to compare on. [a quarter of --add]")
@option(
    MODEL,
    "--model",
    default="pocket",
    show_default=True,
    help="open_clip model name, local-dir:FOLDER, hf-hub:OWNER/NAME, or the embedded pocket.",
)
@option(
    MODEL,
    "--pretrained",
    metavar="TAG|FILE",
    help="open_clip tag or weights file of --model. A file of OpenAI's weights needs a model that ends in -quickgelu.",
)
@option(
    DATA,
    "--shots",
    callback=_numbers,
    metavar="N[,N...]",
    help="Training images per class; several for few-shot. [all; protocols: 16]",
)
@option(TRAINING, "--epochs", type=int, metavar="N", help="Passes over the training images. [40; --from: 20]")
@option(
    TRAINING,
    "--batch-size",
    type=int,
    default=32,
    show_default=True,
    help="Images per step, of all processes together.",
)
@option(
    TRAINING,
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    default="adamw",
    show_default=True,
    help="AdamW, or SGD with a momentum of 0.9.",
)
@option(TRAINING, "--lr", type=float, default=2e-3, show_default=True, help="Peak learning rate; cosine to 0.")
@option(TRAINING, "--augmentations", type=int, default=8, show_default=True, help="Augmented views per image.")
@option(
    TEMPLATES,
    "--template",
    help="Sentence around each label, with {} in its place. [the dataset's own, or 'a photo of a {}.']",
)
@option(
    TEMPLATES,
    "--frozen-template",
    multiple=True,
    help="Template for the frozen text features, which are averaged; may be repeated.",
)
@option(
    TEMPLATES,
    "--ensemble",
    is_flag=True,
    help="Average the frozen text features over the seven templates that CLIP's authors chose, and --template.",
)
@option(PROMPT, "--clusters", type=int, default=2, show_default=True, help="k-means centres per image and block.")
@option(PROMPT, "--lloyd-steps", type=int, default=1, show_default=True, help="k-means steps.")
@option(
    PROMPT,
    "--kmeans-init",
    type=click.Choice(KMEANS_INITS),
    default="grid",
    show_default=True,
    help="First centres: means of a grid of regions, or the patches farthest from each other.",
)
@option(PROMPT, "--pool-size", type=int, default=16, show_default=True, help="Pool entries per prompt pool.")
@option(PROMPT, "--topk", type=int, default=1, show_default=True, help="Pool entries that a centre retrieves.")
@option(PROMPT, "--prompt-length", type=int, default=2, show_default=True, help="Prompt tokens per pool entry.")
@option(
    PROMPT,
    "--static-tokens",
    type=int,
    default=0,
    show_default=True,
    help="Prompt tokens per block that are the same for every image.",
)
@option(
    PROMPT,
    "--depth",
    type=int,
    help="Prompted text blocks, from the first on [all]; of a text tower that is not causal, the last ones. [2]",
)
@option(
    PROMPT,
    "--sources",
    metavar="N,...",
    help="Vision block, from 1, that each prompted text block retrieves with. [spread evenly]",
)
@option(
    PROMPT,
    "--pool",
    type=click.Choice(["shared", "per-block"]),
    default="shared",
    show_default=True,
    help="One prompt pool for all text blocks, or one for each.",
)
@option(
    TRAINING,
    "--loss-weight",
    type=(click.Choice(TERMS), float),
    multiple=True,
    metavar="LOSS X",
    help="Weight of a loss term; 0 turns it off. May be repeated.",
)
@option(TRAINING, "--average", is_flag=True, help="Gaussian-weighted average of the prompts over the epochs.")
@option(
    TRAINING,
    "--learning-curve",
    is_flag=True,
    help="Train again with a quarter and a half of the images: would more help? Takes up to twice as long.",
)
@option(
    TRAINING,
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of the text encoder's products; learned tensors stay fp32.",
)
@option(
    TRAINING,
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Seed of initial prompts, augmented views, order and held-out images.",
)
@option(PROTOCOL, "--protocol", type=click.Choice(PROTOCOLS), help="Compare methods instead of training one prompt.")
@option(PROTOCOL, "--target", type=_PATH, multiple=True, help="Another dataset to score; may be repeated.")
@option(
    PROTOCOL,
    "--datasets",
    callback=_words,
    metavar="all|NAME[,NAME...]",
    help="Run the published datasets whose folders --data holds, in CoOp's layout.",
)
@option(PROTOCOL, "--seeds", callback=_numbers, metavar="N[,N...]", help="Seeds, a training for each. [1,2,3]")
@option(
    PROTOCOL,
    "--method",
    type=click.Choice(METHODS),
    multiple=True,
    help="Method to train; to compare under --protocol, may be repeated. [attriprompt; --protocol: all]",
)
@option(RUN, "--output", type=_PATH, metavar="DIR", help="Run folder. [runs/MODEL-DATA-NUMBER]")
@option(
    RUN,
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="auto uses CUDA if PyTorch has it.",
)
@option(RUN, "--tensorboard", is_flag=True, help="Write TensorBoard events into the run folder.")
@option(
    MODEL,
    "--list-models",
    is_flag=False,
    flag_value="",
    metavar="[WORD]",
    help="List open_clip's models (with WORD in name or tags): cost, weights, licence, whether supported.",
)
@click.version_option(package_name="attri")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Learn an AttriPrompt on a frozen CLIP. Without options, train on the embedded images and backbone, offline.

    On several GPUs or in several processes: torchrun --nproc_per_node=N --no-python attri-train ...
    """
    if (word := options.pop("list_models")) is not None:
        from attri.train.commands import list_models

        list_models(word)
        return
    chosen = TrainOptions(**options)
    given = [name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    chosen.check(given)
    from torch.cuda import OutOfMemoryError

    from attri.train.commands import compare_methods, train_from_prompt, train_prompt
    from attri.train.fitting import pick_device
    from attri.train.training import distributed
    from attri.train.training.progress import Progress

    device = pick_device(chosen.device)
    with distributed.process_group(device):
        progress = Progress(quiet=distributed.rank() > 0)
        try:
            with distributed.report_once():
                if chosen.start:
                    train_from_prompt(chosen, given, device, progress)
                else:
                    (compare_methods if chosen.protocol else train_prompt)(chosen, device, progress)
        except KeyboardInterrupt:
            progress.say("stopped: the same command goes on from here")
            raise
        except OutOfMemoryError as error:
            raise FailedError(f"{device} is out of memory: lower --batch-size (it is {chosen.batch_size})") from error


if __name__ == "__main__":
    main()
