"""The sources file: a TOML table for each named source.

[door]
uri = "rtsp://user:password@192.0.2.7/stream"   # whatever a SOURCE of attri-run may be
labels = "door.txt"                             # beside this file; template and threshold likewise
roi = [0, 0, 640, 480]                          # and the other source options, see SourceOptions

[door.tasks.locked]                             # of several tasks on its frames, see TaskSpec
prompt = "locked.attri"                         # beside this file, like labels
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attri.runtime._util.redact import redact
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.spec import SOURCE_OPTIONS, Number, SourceOptions, SourceSpec, WholeNumber
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
}
_CHECKS: Checks = {
    "uri": lambda value: isinstance(value, str) and value != "",
    "watch": lambda value: isinstance(value, bool),
    **_LABELS,
    **{option.name: option.type.accepts for option in SOURCE_OPTIONS},
    "tasks": lambda value: isinstance(value, dict) and len(value) > 0,
}
_OVER_TIME: Checks = {
    "smooth": Number(0, 1e6).accepts,
    "majority": WholeNumber(1).accepts,
    "min_duration": Number(0, 1e6).accepts,
}
_TASK_CHECKS: Checks = {"prompt": _is_path, **_LABELS, **_OVER_TIME}


def read_sources(path: Path) -> dict[str, SourceSpec]:
    """Read a sources file.

    Returns:
        Each name and its source.

    Raises:
        UsageError: There is no such file, it is not TOML, a key is not known, or a value is of the wrong type.
    """
    return {name: _source(path, name, table) for name, table in _read_tables(path).items()}


def _read_tables(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {redact(str(error))}") from error
    if not tables:
        raise UsageError(f"{path} names no sources: write [name] and below it uri = ...")
    return tables


def _source(path: Path, name: str, table: Any) -> SourceSpec:
    _check_table(path, name, table)
    try:
        spec = find_source(_beside(path, table["uri"]), table.get("watch", False))
    except UsageError as error:
        raise UsageError(f"{path}: {name}.uri: {error}") from error
    if table.get("watch") and spec.kind != "watch":
        raise UsageError(f"{path}: {name}.watch is for a folder")
    own = {key: table[key] for key in ("template", "threshold") if key in table} | _files(path, table, "labels")
    tasks = tuple(_task(path, name, spec, *each) for each in table.get("tasks", {}).items())
    return replace(spec, name=name, input=_options(path, name, table, spec), tasks=tasks, **own)


def _task(path: Path, source: str, spec: SourceSpec, name: str, table: Any) -> TaskSpec:
    where = f"{source}.tasks.{name}"
    try:
        check_task_name(name)
    except UsageError as error:
        raise UsageError(f"{path}: {source}.tasks: {error}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {where} must be a table: write [{where}] and below it prompt = ... or labels = ...")
    _check_keys(path, where, table, _TASK_CHECKS)
    if "smooth" in table and "majority" in table:
        raise UsageError(f"{path}: {where}: smooth and majority are two ways to one end: give one of them")
    if not spec.sequential and (unused := sorted(table.keys() & _OVER_TIME)):
        raise UsageError(f"{path}: {where} takes no {', '.join(unused)}: an image says nothing of the next")
    return TaskSpec(name, **{**table, **_files(path, table, "prompt", "labels")})


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
