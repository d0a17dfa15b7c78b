"""attri-run --install-service: check the command as far as possible without running it, and print its unit file."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from numpy.typing import NDArray

from attri.runtime.bundle import Bundle
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.classifier import Classifier
from attri.runtime.cli.command import require
from attri.runtime.cli.service.systemd import SECRETS, unit_file
from attri.runtime.cli.sources.options import Inputs
from attri.runtime.cli.sources.pipeline import open_pipeline
from attri.runtime.cli.sources.tasks import TaskType, absolute_task
from attri.runtime.engines.select import EngineOptions, choose_tensorrt
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile
from attri.runtime.text.cache import TextCache


class _NoEngine:
    """Stands for an engine where labels are checked and nothing is classified."""

    description = ""
    limits: Mapping[str, int] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        raise AssertionError("nothing is classified")

    def close(self) -> None:
        pass


def check_service(
    specs: Sequence[SourceSpec],
    files: Mapping[Path, LabelsFile],
    labels: Path | None,
    bundle: Path,
    request: EngineOptions,
    inputs: Inputs,
) -> None:
    """Check what attri-run checks before it starts, beside the sinks. No engine is loaded and no source is opened.

    Args:
        specs: the sources, as `find_inputs` gives them.
        files: the labels files of all sources.
        labels: the file of sources that have none of their own.
        bundle: folder of the bundle.
        request: which engine to use.
        inputs: the options about sources and decisions.

    Raises:
        AttriError: what attri-run would say, or something is for a terminal and not for a service.
    """
    if any(spec.kind == "stdin" for spec in specs):
        raise UsageError("--install-service: a service has no standard input: name another source than -")
    pipes = [path for path, file in files.items() if file.state is None]
    pipes += [inputs.sources] if inputs.sources and not inputs.sources.is_file() else []
    for path in pipes:
        raise UsageError(f"--install-service: {path} is a pipe, which is gone when the service starts: name a file")
    request.check()
    for module in (*_modules(specs), *_engine_modules(request)):
        require(module)
    classifier = Classifier(Bundle.open(bundle), _NoEngine(), _NoEngine(), None, TextCache(0))
    with closing(classifier):
        open_pipeline(specs, classifier, files, labels, inputs)


def print_unit(words: Sequence[str]) -> None:
    """Print the unit file on stdout, and what to do with it on stderr.

    Args:
        words: arguments of attri-run.

    Raises:
        UsageError: they hold a secret.
    """
    click.echo(unit_file(words), nl=False)
    click.echo("Save it as /etc/systemd/system/attri.service, then: systemctl enable --now attri", err=True)
    click.echo(f"Tokens, passwords and ATTRI_WEBHOOK (ATTRI_...=...) go into {SECRETS}, chmod 600.", err=True)


def absolute_words(words: Sequence[str], command: click.Command, named: Collection[str]) -> list[str]:
    """Make the paths in the arguments of a command absolute.

    Args:
        words: the arguments as they were typed.
        command: the command; its options of type click.Path and TaskType take paths.
        named: names of the sources file, which are no paths.
    """
    options = {name: option for option in command.params for name in option.opts if isinstance(option, click.Option)}
    result: list[str] = []
    option: click.Option | None = None  # whose value comes next
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if option is not None:
            result.append(_absolute_value(option, word))
            option = None
        elif word == "--":
            return [*result, word, *(_absolute_source(each, named) for each in words[number + 1 :])]
        elif name in options and equals:
            result.append(f"{name}={_absolute_value(options[name], value)}")
        elif name in options:
            option = None if options[name].is_flag else options[name]
            result.append(word)
        else:
            result.append(_absolute_source(word, named))
    return result


def _absolute_value(option: click.Option, value: str) -> str:
    if isinstance(option.type, TaskType):
        return absolute_task(value)
    return _absolute(value) if isinstance(option.type, click.Path) else value


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _absolute_source(word: str, named: Collection[str]) -> str:
    """Make a source absolute if it is a path or glob, told from other sources as `find_sources` does."""
    path = word.removeprefix("file://")
    is_path = word not in named and bool(Path(path).exists() or (glob.has_magic(word) and glob.glob(word)))  # noqa: PTH207  # Path.glob takes no absolute pattern
    return _absolute(path) if is_path else word


def _modules(specs: Sequence[SourceSpec]) -> Iterator[str]:
    """Yield the modules that opening the sources needs."""
    for spec in specs:
        if spec.kind in ("stream", "video"):
            yield "av"
        elif spec.kind == "frigate":
            yield "paho"
        elif spec.live:
            yield "cv2"


def _engine_modules(request: EngineOptions) -> Iterator[str]:
    """Yield the modules that running the graphs needs.

    Raises:
        EngineError: TensorRT was asked for and does not work here.
        MissingExtra: TensorRT was asked for and is not installed.
    """
    if choose_tensorrt(request)[0] is None:
        yield "onnxruntime"
