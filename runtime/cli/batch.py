"""attri-batch: classify a dataset, from Parquet, tars, folders and buckets, here, on Ray or on Daft."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime._util.cpus import usable_cpus
from attri.runtime._util.redact import redact_uri
from attri.runtime._util.transient import missing
from attri.runtime._util.wording import plural
from attri.runtime.bundle import PROMPT, read_manifest
from attri.runtime.cli.command import DATA, ENGINE, LABELS, OUTPUTS, Command, is_installed, option, require
from attri.runtime.cli.model_options import TASK, TEMPLATE, Model, model_options
from attri.runtime.cli.sink_options import output_option
from attri.runtime.cli.sources.tasks import check_names
from attri.runtime.dataset.classify import ENGINES, Engine, Workers
from attri.runtime.dataset.plan import PART_ROWS, Plan, Request
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.engines.onnxruntime import auto_device
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.explain.explainer import require_graph
from attri.runtime.image_batches import DECODE_THREADS
from attri.runtime.labels import Label, load_labels
from attri.runtime.prompt import Prompt

if TYPE_CHECKING:
    import pyarrow

    from attri.runtime.batch import ClassifyBatch
    from attri.runtime.dataset.output.bucket import Place
    from attri.runtime.dataset.output.output import Output

_LOGGER = logging.getLogger("attri")
_READERS = 16  # threads where each image is fetched by itself, and waiting takes longer than decoding
_ON_GPU = ("cuda", "tensorrt", "migraphx", "rocm")  # devices for which workers of Ray and Daft ask for a GPU
_SIDE_BY_SIDE = 4  # batches, at most
_COUNT = click.IntRange(1)
_PATH = click.Path(path_type=Path)


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """Names of columns, with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split the value of an option."""
        return value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(","))


_OPTIONS = [
    click.argument("word", metavar="IN"),
    option(
        DATA,
        "--image-column",
        "image",
        metavar="NAME",
        help="Of Parquet; of tars a suffix like jpg. [image; every image]",
    ),
    option(DATA, "--columns", type=_Names(), metavar="A,B", help="Columns of IN that are kept. [all but the images]"),
    option(DATA, "--where", metavar="EXPRESSION", help="Only such rows: \"width >= 256 and split == 'train'\"."),
    option(DATA, "--limit", type=_COUNT, help="Only the first rows."),
    option(DATA, "--sample", type=_COUNT, help="Only so many rows, at random."),
    option(DATA, "--seed", type=int, default=0, metavar="N", show_default=True, help="Of --sample."),
    option(
        DATA,
        "--part-rows",
        type=_COUNT,
        default=PART_ROWS,
        show_default=True,
        help="Rows that are finished together; a tar is a part whatever it holds.",
    ),
]


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options about its input; its function gets them as one argument, `request`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = Request(**{field.name: kwargs.pop(field.name) for field in fields(Request)})
        return command(*args, request=request, **kwargs)

    for add in reversed(_OPTIONS):
        wrapper = add(wrapper)
    return wrapper


@click.command(cls=Command)
@request_options
@option(LABELS, "--prefix", default="", metavar="TEXT", help="Of the new columns, where IN has a label or score.")
@option(LABELS, "--embeddings", is_flag=True, help="Add the unit feature of each image, float16.")
@option(DATA, "--fast-jpeg", is_flag=True, help="Decode JPEGs at a part of their size: faster, scores differ a little.")
@option(LABELS, "--explain", is_flag=True, help="Add what each patch of an image contributes to its label, float16.")
@model_options
@TASK
@TEMPLATE
@output_option("topk")
@option(ENGINE, "--max-batch", type=_COUNT, default=16, show_default=True, help="Images to classify at once, at most.")
@option(ENGINE, "--engine", type=click.Choice(ENGINES), default="local", show_default=True, help="What runs the parts.")
@option(ENGINE, "--workers", type=_COUNT, help="Processes of Ray or Daft. [1]")
@option(ENGINE, "--ray-address", metavar="ADDRESS", help="Of a Ray cluster. [$RAY_ADDRESS; this machine]")
@option(
    OUTPUTS,
    "--output",
    required=True,
    metavar="OUT",
    help="Folder of Parquet, or a file called .jsonl or .csv; s3://, gs:// and az:// too. The same command goes on"
    " where it was stopped.",
)
@option(
    OUTPUTS,
    "--summary",
    type=_PATH,
    metavar="FILE",
    help="One page of HTML: labels, scores, the most and least certain images, errors.",
)
@click.version_option(package_name="attri")
def main(
    request: Request,
    prefix: str,
    embeddings: bool,
    explain: bool,
    fast_jpeg: bool,
    model: Model,
    tasks: tuple[TaskSpec, ...],
    template: str | None,
    topk: int,
    max_batch: int,
    engine: Engine,
    workers: int | None,
    ray_address: str | None,
    output: str,
    summary: Path | None,
) -> None:
    """Classify the images of IN, and write a row for each to OUT.

    IN is a folder, a file or a quoted glob: images, Parquet, or tars as webdataset has them; or a URL (s3://, gs://,
    az://, http://, ...) of those. {000..099} stands for several. A row that cannot be classified has an error.
    """
    if engine != "local" and model.threads is None:
        model = replace(model, threads=1)  # workers share the CPUs
    model.check_topk(topk)
    _check_tasks(model, tasks)
    _check_engine(engine, workers, ray_address)
    if request.limit is not None and request.sample is not None:
        raise UsageError("--limit and --sample are two ways to choose rows: give one of them")
    if summary is not None and not summary.parent.is_dir():
        raise UsageError(f"{summary}: the folder {summary.parent} does not exist") from missing(summary.parent)
    from attri.runtime.batch import ClassifyBatch
    from attri.runtime.dataset.output.bucket import place_of
    from attri.runtime.dataset.output.output import Output
    from attri.runtime.dataset.plan import make_plan
    from attri.runtime.dataset.run import run

    place = place_of(output)
    if explain:
        require_graph(model.bundle, read_manifest(model.bundle).files)
    labels = _read_labels(model, tasks)
    added: dict[str, Any] = {"topk": topk, "embeddings": embeddings, "prefix": prefix, "template": template}
    added |= {"explain": explain, "fast_jpeg": fast_jpeg}
    options = {**added, **model.arguments, "threshold": model.threshold, "batch": max_batch}
    if engine == "local":
        options |= _on_this_machine(model)
    prompts = {str(task.name): task.prompt for task in tasks} or None
    classify = ClassifyBatch(model.bundle, labels, prompts=prompts, keep=False, **options)
    made_of = _made_of(model, tasks, labels)
    if engine == "local":
        _LOGGER.info("%s: %s", model.bundle, classify.classifier.description)  # it may fail before IN is searched
    plan, shown = make_plan(request), redact_uri(request.word)
    _LOGGER.info("%s: %s, %s", shown, plan.what, plural(len(plan.parts), "part"))
    if plan.remote:
        classify.readers = max(classify.readers, _READERS)
    facts = {**asdict(request), "word": shown, "files": plan.listing, **added, **made_of}
    out = Output(place, facts, _schema(shown, plan, classify))
    if not out.is_text and _is_within(place, request.word):
        raise UsageError(f"{place} lies in {shown}, where the same command would find it the next time: name another")
    with out.locked():
        if out.finished and summary is not None:
            raise UsageError(f"--summary is made of parts, and {place} has none any more: remove it")
        if out.finished:
            _LOGGER.info("%s is finished already", place)
            return
        gpus = 1 if model.device in _ON_GPU else 0
        run(plan, classify, out, engine, Workers(workers or 1, model.threads or 1, gpus, ray_address))
        if summary is not None:
            starts = {str(task.name): f"{prefix}{task.name}_" for task in tasks} or {"": prefix}
            made = f"{plan.what}, by {model.bundle} with {model.labels or 'the labels of its prompt'}"
            _summarize(summary, shown, made, starts, out, plan)
        out.finish()


def _on_this_machine(model: Model) -> dict[str, int]:
    """Arguments of `ClassifyBatch` that use the CPUs of this machine.

    Threads that share one batch wait for each other after each operator, and spin meanwhile, beside threads that
    decode: an eighth of the time of the pocket model (benchmarks/side_by_side.md). So batches go side by side, with
    a thread each; only so many, because each has its memory.
    """
    cpus = model.threads or usable_cpus().count
    readers = max(cpus, DECODE_THREADS)
    device = auto_device() if model.device == "auto" and is_installed("onnxruntime") else model.device
    if device != "cpu":
        return {"readers": readers}
    side_by_side = min(cpus, _SIDE_BY_SIDE)
    return {"readers": readers, "side_by_side": side_by_side, "threads": cpus // side_by_side}


def _is_within(place: Place, word: str) -> bool:
    """Whether an output lies where the input is looked for."""
    if isinstance(place, Path):
        return place.resolve().is_relative_to(Path(word).resolve())
    return place.is_within(word)


def _check_tasks(model: Model, tasks: tuple[TaskSpec, ...]) -> None:
    """Check that what is given for all tasks is used by one of them. Raises UsageError."""
    check_names(tasks)
    for flag, given, own in (("--labels", model.labels, "labels"), ("--prompt", model.prompt, "prompt")):
        if given is not None and tasks and all(getattr(task, own) for task in tasks):
            raise UsageError(f"{flag}: every task has its own")


def _check_engine(engine: Engine, workers: int | None, ray_address: str | None) -> None:
    """Check that what is asked for is installed and does something. Raises UsageError, FailedError."""
    for module in ("pyarrow", "fsspec"):
        require(module)
    if engine == "local" and (workers or ray_address):
        raise UsageError("--workers and --ray-address are for --engine ray or daft")
    if engine != "local" and not is_installed(engine):
        raise FailedError(f"{engine} is not installed: pip install {engine}")


def _read_labels(model: Model, tasks: tuple[TaskSpec, ...]) -> list[Label] | dict[str, list[Label] | None] | None:
    """Labels, or those of each task. Raises LabelsError."""
    common = None if model.labels is None else load_labels(model.labels)
    if not tasks:
        return common
    return {str(task.name): load_labels(task.labels) if task.labels else common for task in tasks}


def _made_of(model: Model, tasks: tuple[TaskSpec, ...], labels: Any) -> dict[str, Any]:
    """What the new columns depend on, as JSON, beside the images. Raises BundleError."""
    common = model.prompt or model.bundle / PROMPT
    files = {str(task.name): task.prompt or common for task in tasks} or {"": common}
    return {
        "bundle": read_manifest(model.bundle).base,
        "prompts": {name: Prompt.read(file).digest for name, file in files.items()},
        "labels": _written(labels),
        "threshold": model.threshold,
        "independent": model.independent,
        "shortlist": model.shortlist,
    }


def _written(labels: list[Label] | dict[str, list[Label] | None] | None) -> Any:
    """Labels as JSON."""
    if isinstance(labels, dict):
        return {name: _written(some) for name, some in labels.items()}
    return None if labels is None else [str(label) for label in labels]


def _schema(shown: str, plan: Plan, classify: ClassifyBatch) -> pyarrow.Schema:
    """Columns of the output. Raises UsageError where a new one has the name of one that is kept."""
    schema = plan.schema
    for field in classify.fields():
        if field.name in plan.schema.names:
            raise UsageError(f"{shown} has a column {field.name!r} already: give --prefix, or --columns")
        schema = schema.append(field)
    return schema


def _summarize(path: Path, title: str, made: str, starts: dict[str, str], out: Output, plan: Plan) -> None:
    from attri.runtime.dataset.summary import summarize
    from attri.runtime.dataset.summary_page import write_page

    write_page(path, title, made, summarize(starts, out.tables(), plan.parts))
    _LOGGER.info("%s", path)


if __name__ == "__main__":
    main()
