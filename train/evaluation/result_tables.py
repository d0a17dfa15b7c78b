"""A protocol's results as a Markdown table: means over seeds, in percent, as papers print them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from attri.runtime._util.wording import plural

Row = dict[tuple[str, int], list[float]]  # accuracies over seeds, in percent, by column and shots


def markdown(results: dict[str, Any]) -> str:
    """The table, with a line above it that says what it shows."""
    run, scores = results["run"], results["scores"]
    rows: dict[str, Row] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        rows[score["method"]][score["column"], score["shots"]].append(100 * score["accuracy"])
    columns = list(dict.fromkeys((score["column"], score["shots"]) for score in scores))
    make = {"base-to-novel": _base_to_novel, "few-shot": _few_shot}.get(results["protocol"], _targets)
    header, body = make(rows, columns)
    seeds = len(run["seeds"])
    shots = "" if results["protocol"] == "few-shot" else f", {plural(run['shots'][0], 'shot')}"
    spread = "standard deviation over seeds" if seeds > 1 else "one seed, no spread"
    about = f"{results['protocol']}, {run['backbone']['model']}{shots}, {plural(seeds, 'seed')};"
    about += f" accuracy in percent ({spread})."
    if results["protocol"] == "base-to-novel":
        classes = {score["column"]: score["classes"] for score in scores}
        about += (
            f" {classes['base']} base and {classes['novel']} novel classes; HM is the harmonic mean of the averages."
        )
    return f"{about}\n\n{table(header, body)}"


def table(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def harmonic_mean(base: float, novel: float) -> float:
    """2 base novel / (base + novel), 0 where both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def cell(values: list[float]) -> str:
    """Mean and, of several seeds, their standard deviation."""
    spread = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _base_to_novel(rows: dict[str, Row], columns: list[tuple[str, int]]) -> tuple[list[str], list[list[str]]]:
    body = []
    for method, row in rows.items():
        base, novel = (row[column] for column in columns)
        hm = harmonic_mean(statistics.mean(base), statistics.mean(novel))
        body.append([method, cell(base), cell(novel), f"{hm:.1f}"])
    return ["method", "base", "novel", "HM"], body


def _few_shot(rows: dict[str, Row], columns: list[tuple[str, int]]) -> tuple[list[str], list[list[str]]]:
    header = ["method", *(f"{shots} shot{'s' if shots > 1 else ''}" for _, shots in columns)]
    return header, [[method, *(cell(row[column]) for column in columns)] for method, row in rows.items()]


def _targets(rows: dict[str, Row], columns: list[tuple[str, int]]) -> tuple[list[str], list[list[str]]]:
    """The source first, then the targets and their average."""
    source, *targets = columns
    header = ["method", f"{source[0]} (source)", *(name for name, _ in targets), "average of targets"]
    body = []
    for method, row in rows.items():
        average = statistics.mean(statistics.mean(row[column]) for column in targets)
        body.append([method, *(cell(row[column]) for column in columns), f"{average:.1f}"])
    return header, body
