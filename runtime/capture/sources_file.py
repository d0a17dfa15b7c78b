"""The sources file: a TOML table for each named source.

[door]
uri = "rtsp://user:password@192.0.2.7/stream"   # whatever a SOURCE of attri-run may be
labels = "door.txt"                             # beside this file; also template, threshold, independent
roi = [0, 0, 640, 480]                          # and the other source options, see SourceOptions

[door.tasks.locked]                             # of several tasks on its frames, see TaskSpec
prompt = "locked.attri"                         # beside this file, like labels

[door.regions.bell]                             # of several parts of its frames, see RegionSpec
roi = [40, 300, 64, 64]
labels = "bell.txt"                             # and what else a task may have
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attri.runtime._util.redact import redact
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.spec import (
    SOURCE_OPTIONS,
    Number,
    RegionOfInterest,
    RegionSpec,
    SourceOptions,
    SourceSpec,
    WholeNumber,
)
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError
from attri.runtime.task import check_task_name

Checks = Mapping[str, Callable[[Any], bool]]


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


_LABELS: Checks = {
    "labels": _is_path,
    "template": lambda value: isinstance(value, str) and value.count("{}") == 1,
    "threshold": Number(0, 1).accepts,
    "independent": lambda value: isinstance(value, bool),
}
_CHECKS: Checks = {
    "uri": lambda value: isinstance(value, str) and value != "",
    "watch": lambda value: isinstance(value, bool),
    "paused": lambda value: isinstance(value, bool),
    **_LABELS,
    **{option.name: option.type.accepts for option in SOURCE_OPTIONS},
    "tasks": lambda value: isinstance(value, dict) and len(value) > 0,
    "regions": lambda value: isinstance(value, dict) and len(value) > 0,
}
_OVER_TIME: Checks = {
    "smooth": Number(0, 1e6).accepts,
    "majority": WholeNumber(1).accepts,
    "min_duration": Number(0, 1e6).accepts,
}
_TASK_CHECKS: Checks = {"prompt": _is_path, **_LABELS, **_OVER_TIME}
_REGION_CHECKS: Checks = {"roi": RegionOfInterest().accepts, "motion": Number(0.01, 100).accepts, **_TASK_CHECKS}


def read_sources(path: Path) -> dict[str, SourceSpec]:
    """Read a sources file.

    Returns:
        Each name and its source.

    Raises:
        UsageError: There is no such file, it is not TOML, a key is not known, or a value is of the wrong type.
    """
    return {name: read_source(path, name, table) for name, table in _read_tables(path).items()}


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        tables = parse_tables(path, path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if not tables:
        raise UsageError(f"{path} names no sources: write [name] and below it uri = ...")
    return tables


def parse_tables(path: Path, data: bytes) -> dict[str, Any]:
    """The tables of a sources file, by name.

    Args:
        path: Of the file, for messages.
        data: What it holds.

    Raises:
        UsageError: It is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, Any] = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {redact(str(error))}") from error
    return tables


def read_source(path: Path, name: str, table: Any) -> SourceSpec:
    """Read one table of a sources file.

    Args:
        path: Of the file, beside which the files are that the table names.
        name: Of the source.
        table: What is said of it.

    Raises:
        UsageError: As `read_sources`.
    """
    _check_table(path, name, table)
    try:
        spec = find_source(_beside(path, table["uri"]), table.get("watch", False))
    except UsageError as error:
        raise UsageError(f"{path}: {name}.uri: {error}") from error
    if table.get("watch") and spec.kind != "watch":
        raise UsageError(f"{path}: {name}.watch is for a folder")
    own = {key: table[key] for key in ("template", "threshold", "independent", "paused") if key in table} | _files(
        path, table, "labels"
    )
    tasks = tuple(_task(path, name, spec, *each) for each in table.get("tasks", {}).items())
    regions = tuple(_region(path, name, spec, *each) for each in table.get("regions", {}).items())
    if regions and "roi" not in spec.options:
        raise UsageError(f"{path}: {name} takes no regions")
    if regions and "roi" in table:
        raise UsageError(f"{path}: {name}: roi and regions are two ways to one end: give one of them")
    if tasks and regions and all(region.task != TaskSpec() for region in regions):
        raise UsageError(f"{path}: {name}.tasks: every region has labels, prompt or decisions of its own")
    spec = replace(spec, name=name, input=_options(path, name, table, spec), tasks=tasks, regions=regions, **own)
    if spec.input.motion_max_age is not None and not any(spec.motions):
        raise UsageError(f"{path}: {name}.motion_max_age is for motion: give that too")
    return spec


def _task(path: Path, source: str, spec: SourceSpec, name: str, table: Any) -> TaskSpec:
    where = _check_part(path, f"{source}.tasks", name, "task", table, "prompt = ... or labels = ...")
    _check_keys(path, where, table, _TASK_CHECKS)
    return TaskSpec(name, **_asked(path, where, spec, table))


def _region(path: Path, source: str, spec: SourceSpec, name: str, table: Any) -> RegionSpec:
    where = _check_part(path, f"{source}.regions", name, "region", table, "roi = [x, y, width, height]")
    _check_keys(path, where, table, _REGION_CHECKS)
    if "roi" not in table:
        raise UsageError(f"{path}: {where} has no roi")
    rest = {key: value for key, value in table.items() if key not in ("roi", "motion")}
    x, y, width, height = table["roi"]
    if "motion" in table and not spec.sequential:
        raise UsageError(f"{path}: {where} takes no motion: an image says nothing of the next")
    return RegionSpec(name, (x, y, width, height), TaskSpec(**_asked(path, where, spec, rest)), table.get("motion"))


def _check_part(path: Path, parent: str, name: str, kind: str, table: Any, example: str) -> str:
    """The full name of a task or region, once it can be called so and is a table."""
    try:
        check_task_name(name, kind)
    except UsageError as error:
        raise UsageError(f"{path}: {parent}: {error}") from error
    where = f"{parent}.{name}"
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {where} must be a table: write [{where}] and below it {example}")
    return where


def _asked(path: Path, where: str, spec: SourceSpec, table: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a TaskSpec, but its name."""
    if "smooth" in table and "majority" in table:
        raise UsageError(f"{path}: {where}: smooth and majority are two ways to one end: give one of them")
    if not spec.sequential and (unused := sorted(table.keys() & _OVER_TIME)):
        raise UsageError(f"{path}: {where} takes no {', '.join(unused)}: an image says nothing of the next")
    return {**table, **_files(path, table, "prompt", "labels")}


def _files(path: Path, table: Mapping[str, Any], *keys: str) -> dict[str, Path]:
    return {key: path.parent / table[key] for key in keys if key in table}


def _check_table(path: Path, name: str, table: Any) -> None:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {name} must be a table: write [{name}] and below it uri = ...")
    _check_keys(path, name, table, _CHECKS)
    if "uri" not in table:
        raise UsageError(f"{path}: {name} has no uri")


def _check_keys(path: Path, name: str, table: Mapping[str, Any], checks: Checks) -> None:
    for key, value in table.items():
        if key not in checks:
            raise UsageError(f"{path}: {name}.{key} is not known: use {', '.join(checks)}")
        if not checks[key](value):
            raise UsageError(f"{path}: {name}.{key} cannot be {redact(repr(value))}")


def _options(path: Path, name: str, table: dict[str, Any], spec: SourceSpec) -> SourceOptions:
    given = {option.name: table[option.name] for option in SOURCE_OPTIONS if option.name in table}
    if "roi" in given:
        given["roi"] = tuple(given["roi"])
    options = SourceOptions(**given)
    if unused := sorted(options.given() - spec.options):
        raise UsageError(f"{path}: {name} takes no {', '.join(unused)}")
    return options


def _beside(path: Path, uri: str) -> str:
    """Read a path in a sources file as relative to that file."""
    try:
        return str(path.parent / uri) if "://" not in uri and (path.parent / uri).exists() else uri
    except (OSError, ValueError):
        return uri
