"""Tables as JSON lines or CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attri.runtime._util.printable import json_text
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

Format = Literal["jsonl", "csv"]
SUFFIXES: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def check_text(schema: pyarrow.Schema) -> None:
    """Check that a row can be written as text.

    Raises:
        UsageError: A column is of bytes.
    """
    from pyarrow import types

    for field in schema:
        if types.is_binary(field.type) or types.is_large_binary(field.type):
            raise UsageError(f"the column {field.name!r} is of bytes, which text cannot hold: leave it out (--columns)")


def write_text(path: Path, kind: Format, tables: Iterable[pyarrow.Table]) -> None:
    """Write tables, one after the other. In CSV lists are JSON, and there is a header if there is any table.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write: Callable[[dict[str, Any]], Any] | None = None
        for table in tables:
            if kind == "csv" and write is None:
                writer = csv.DictWriter(file, table.column_names, lineterminator="\n")
                writer.writeheader()
                write = writer.writerow
            for row in table.to_pylist():
                plain = {name: _plain(value) for name, value in row.items()}
                if write is None:
                    file.write(json_text(plain, default=str, allow_nan=False) + "\n")
                else:
                    write({name: _cell(value) for name, value in plain.items()})


def _plain(value: Any) -> Any:
    """Scores as `attri-run --json` rounds them; JSON knows no NaN and no infinity."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value


def _cell(value: Any) -> Any:
    return json_text(value, default=str) if isinstance(value, (list, dict)) else value
