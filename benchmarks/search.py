"""Search on photographs of groceries: what attri-search finds against exact search, and the time of a query.

    python -m benchmarks.search BUNDLE GROCERY [--queries 81] [--copies 50]

GROCERY is the unpacked archive. The images of its test part are searched for the name of each class, and for the first
image of each class. BUNDLE should have a prompt that was trained on its train part, or no text is prompted.

For words, all rows are compared with the text as plain CLIP has it, and the best of them once more with the text that
is prompted by the pool entries of each; to do so with every row is exact. For images, float16 features are compared,
and float32 is exact. The table is kept in benchmarks/search.md.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.dataset.search import RERANKED, Index, Row, search_text
from benchmarks.accuracy.datasets import table
from benchmarks.common import keep, timed

TOP = 10
DEPTHS = (TOP, 50, RERANKED)  # rows that are compared with the prompted text
Search = Callable[[Any], list[str]]  # what is sought, and the paths of the best rows


class Found(NamedTuple):
    """What a search finds.

    Attributes:
        right: The share of the best rows of all queries that is of the class that is sought.
        exact: The share that exact search has among its best, too.
        ms: Median time of a query, milliseconds.
    """

    right: float
    exact: float
    ms: float


def compare(search: Search, exact: Search, queries: Mapping[str, Any], classes: Mapping[str, str]) -> Found:
    """What a search finds.

    Args:
        search: as it is.
        exact: as it would be without a short cut.
        queries: what is sought, by class.
        classes: of all paths.
    """
    right, same, times = [], [], []
    for name, query in queries.items():
        paths: list[str] = []
        times.append(timed(lambda query=query, paths=paths: paths.extend(search(query))))  # type: ignore[misc]
        right.append(np.mean([classes[path] == name for path in paths]))
        same.append(len(set(paths) & set(exact(query))) / len(paths))
    return Found(float(np.mean(right)), float(np.mean(same)), float(np.median(times)))


def measure(
    bundle: Path, grocery: Path, folder: Path, queries: int, copies: int
) -> tuple[int, dict[str, Found], float]:
    """Rows of the index, what each search finds, and milliseconds of a query by words in so many copies of it."""
    index, large = folder / "index", folder / "large"
    words = [grocery / "test", "--bundle", bundle, "--output", index, "--embeddings"]
    subprocess.run([sys.executable, "-m", "attri.runtime.cli.batch", *map(str, words)], check=True)
    large.mkdir()
    for file in index.glob("*.parquet"):
        for number in range(copies):
            shutil.copy(file, large / f"{file.stem}-{number}.parquet")
    of_test = [row for row in table(grocery / "labels.csv") if row["split"] == "test"]
    classes = {str(grocery / row["file"]): row["class"] for row in of_test}
    every = {name: path for path, name in reversed(classes.items())}
    first = dict(list(every.items())[:: -(-len(every) // queries)])
    rows, everything = Index(index), len(classes)
    with Classifier.load(bundle) as classifier:

        def by_words(depth: int) -> Search:
            return lambda text: paths(search_text(rows, classifier, text, TOP, depth))

        exact = functools.cache(by_words(everything))
        asked = {name: name for name in first}
        found = {
            f"words, {depth} rows twice": compare(by_words(depth), exact, asked, classes)
            for depth in (*DEPTHS, everything)
        }
        images = classifier.embed_images(list(classes))
        features = dict(zip(classes, images, strict=True))
        places = list(classes)
        nearest = {path: [places[n] for n in np.argsort(-images @ features[path])[:TOP]] for path in first.values()}
        found["an image"] = compare(
            lambda path: paths(rows.nearest(features[path], TOP)), nearest.__getitem__, first, classes
        )
        many = Index(large)
        ms = float(np.median([timed(lambda name=name: search_text(many, classifier, name, TOP)) for name in first]))  # type: ignore[misc]
    return everything, found, ms


def paths(rows: list[Row]) -> list[str]:
    """Which images they are."""
    return [row.columns["path"] for row in rows]


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("grocery", type=Path)
    parser.add_argument("--queries", type=int, default=81, help="classes that are sought, at most")
    parser.add_argument("--copies", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, found, ms = measure(
            arguments.bundle, arguments.grocery, Path(folder), arguments.queries, arguments.copies
        )
    model = Bundle.open(arguments.bundle).manifest.model["name"]
    lines = [
        f"{model}, {rows} images, at most {arguments.queries} queries. attri-search compares {RERANKED} rows twice."
        f" With {rows * arguments.copies} rows, a query by words takes {ms:.0f} ms.",
        "",
        f"| | of its class in the top {TOP} | of the top {TOP} of exact search | ms a query |",
        "|---|---|---|---|",
    ]
    for name, each in found.items():
        lines.append(f"| {name} | {each.right:.1%} | {each.exact:.1%} | {each.ms:.0f} |")
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
