"""Options of `attri-export --trt`, and building a bundle's engines. Needs neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from attri.runtime.bundle import ENGINES, MANIFEST, Bundle
from attri.runtime.cli.command import ENGINE, option
from attri.runtime.engines.tensorrt.builder import CHECK_LABELS, BuildOptions
from attri.runtime.engines.tensorrt.cuda import is_tegra
from attri.runtime.errors import EngineError, MissingExtra, UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_DEFAULTS = BuildOptions()
OPTIONS = [
    option(ENGINE, "--max-batch", type=click.IntRange(1), help=f"Images at once. [{_DEFAULTS.max_batch}]"),
    option(
        ENGINE,
        "--max-labels",
        type=click.IntRange(CHECK_LABELS),
        help=f"Labels at once; larger sets take several runs. [{_DEFAULTS.max_labels}]",
    ),
    option(
        ENGINE, "--workspace", type=click.IntRange(1), help="MB for TensorRT beside weights. [half of the free memory]"
    ),
    option(
        ENGINE, "--engine-dir", type=click.Path(path_type=Path), help="Folder of the engine cache. [BUNDLE/engines]"
    ),
    option(ENGINE, "--rebuild-engines", is_flag=True, help="Build engines again, even if cached."),
    option(
        ENGINE,
        "--hardware-compatible",
        is_flag=True,
        help="Engines for all GPUs from Ampere on; slower, and not on a Jetson.",
    ),
    option(ENGINE, "--version-compatible", is_flag=True, help="Engines for later TensorRT of the same major; slower."),
    option(ENGINE, "--dla", is_flag=True, help="Not supported; prints the reason."),
]

NAMES = (
    "max_batch",
    "max_labels",
    "workspace",
    "engine_dir",
    "rebuild_engines",
    "hardware_compatible",
    "version_compatible",
)


def with_engine_options(command: Decorated) -> Decorated:
    """Give a click command the options of engines."""
    for decorate in reversed(OPTIONS):
        command = decorate(command)
    return command


def engine_options(trt: bool, given: dict[str, Any]) -> tuple[BuildOptions, Path | None, bool]:
    """Check the options of engines and sum them up.

    Args:
        trt: whether engines are to be built.
        given: values of the options by name. It is used up.

    Returns:
        How to build, the folder of the engine cache or None for the bundle's, and whether to build again.

    Raises:
        UsageError: an option without --trt, two that exclude each other, --dla, or on a Jetson --hardware-compatible.
    """
    if given.pop("dla"):
        raise UsageError(
            "--dla: a DLA takes convolutions of fixed shapes; attention, layer norms, gathers and labels that change"
            " would all run on the GPU again: leave it out"
        )
    if not trt and (unused := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]):
        raise UsageError(f"{' and '.join(unused)} without --trt: nothing would use it")
    if given["hardware_compatible"] and is_tegra():
        raise UsageError(
            "--hardware-compatible: TensorRT has no such engines on JetPack, nor do a workstation's run here: leave it"
            " out"
        )
    if given["engine_dir"] and (given["hardware_compatible"] or given["version_compatible"]):
        raise UsageError("portable engines are copied with their bundle: leave out --engine-dir")
    folder, rebuild, workspace = given.pop("engine_dir"), given.pop("rebuild_engines"), given.pop("workspace")
    options = {name: value for name, value in given.items() if value is not None}
    return BuildOptions(**options, workspace=workspace and workspace << 20), folder, rebuild


def takes_only_engines(path: Path, trt: bool) -> bool:
    """Whether the argument is a bundle that only needs engines, and not a run to export.

    Args:
        path: the argument.
        trt: whether --trt was given.

    Raises:
        UsageError: it is a bundle, without --trt or with options of an export.
    """
    if not (path / MANIFEST).is_file():
        return False
    if not trt:
        raise UsageError(f"{path} is a bundle already: add --trt to build its engines, or name a run to export")
    context = click.get_current_context()
    about_engines = {"run", "trt", *NAMES}
    given = [each for each in context.params if context.get_parameter_source(each) is ParameterSource.COMMANDLINE]
    if unused := [f"--{name.replace('_', '-')}" for name in given if name not in about_engines]:
        raise UsageError(f"{path} is a bundle already, of which only engines are built: leave out {', '.join(unused)}")
    return True


def build_engines(path: Path, options: BuildOptions, folder: Path | None, rebuild: bool) -> None:
    """Build a bundle's engines and print where they are.

    Args:
        path: the bundle.
        options: how to build.
        folder: of the engine cache; None takes the bundle's.
        rebuild: build engines again, also those that are cached.

    Raises:
        EngineError: TensorRT or a GPU is missing, or a build failed. The bundle stays as it is.
        ParityError: an engine does not agree with the model.
    """
    from attri.runtime.engines.tensorrt.load import find_tensorrt, load_or_build
    from attri.runtime.engines.tensorrt.portable import list_portable_engines

    bundle = Bundle.open(path)
    try:
        gpu = find_tensorrt()
    except (EngineError, MissingExtra) as error:
        raise EngineError(
            f"no engines can be built here: {error}; the bundle {path} is finished and stays:"
            f" copy it to the device and run there: attri-export {path.name} --trt"
        ) from error
    folder = folder or path / ENGINES
    engines = load_or_build(bundle, gpu, folder, show_progress, options=options, rebuild=rebuild)
    for engine in engines:
        engine.close()
    if options.hardware_compatible or options.version_compatible:
        list_portable_engines(bundle, show_progress)
    click.echo(f"engines {folder}  {gpu.machine}")


def show_progress(line: str) -> None:
    """Print a line on stderr."""
    click.echo(line, err=True)
