"""The tables of benchmarks/loop.py: means over seeds, and paired differences with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

STUDENT = {3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228}  # 97.5% of Student's t, by degrees of freedom
Row = dict[str, Any]


def mean(values: Sequence[float]) -> str:
    """A mean, with one digit."""
    return f"{statistics.mean(values):.1f}"


def difference(values: Sequence[float]) -> str:
    """The mean of paired differences and its 95% interval, by Student's t over the seeds."""
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    centre = statistics.mean(values)
    return f"{centre:+.1f} [{centre - half:+.1f}, {centre + half:+.1f}]"


def shift_table(rows: list[Row], choices: list[str]) -> list[str]:
    """A line for each way to choose, compared with random images seed by seed."""
    table = [
        "| learned | worth a look | different drawings | new style | over random | old style | over in use |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("in use", "random", *choices):
        new, old = ([row[f"{name}: {part}"] for row in rows] for part in ("new", "old"))
        cells = [name, "", "", mean(new), "", mean(old), ""]
        if name != "in use":
            cells[2] = mean([row[f"{name}: kinds"] for row in rows])
            cells[6] = difference([after - row["in use: old"] for after, row in zip(old, rows, strict=True)])
        if name in choices:
            cells[1] = f"{mean([row[f'{name}: found'] for row in rows])} of {rows[0]['stream']}"
            cells[4] = difference([after - row["random: new"] for after, row in zip(new, rows, strict=True)])
        table.append(f"| {' | '.join(cells)} |")
    return table


def class_table(seeds: list[list[Row]]) -> list[str]:
    """Accuracy before and after a class was added; differences are seeds', each the mean of its classes."""
    of_seed = [{key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "class"} for rows in seeds]
    parts = {
        "known classes, asked for these": ("own", "own after"),
        "known classes, asked for the new one too": ("old before", "old after"),
        "the new class, asked for all": ("new before", "new after"),
    }
    table = ["| test images of | in use | after | difference |", "|---|---|---|---|"]
    for name, (before, after) in parts.items():
        cells = [mean([row[before] for row in of_seed]), mean([row[after] for row in of_seed])]
        table.append(f"| {name} | {' | '.join(cells)} | {difference([row[after] - row[before] for row in of_seed])} |")
    return table
