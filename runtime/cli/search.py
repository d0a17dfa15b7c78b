"""attri-search: find images of a dataset by words or by an image, its duplicates and its outliers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from attri.runtime._util.printable import json_text, printable
from attri.runtime.cli.command import LABELS, OUTPUTS, Command, option, require
from attri.runtime.cli.model_options import OPTIONS
from attri.runtime.engines.onnxruntime import Device
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    from attri.runtime.dataset.search import Index, Row

_MODEL = ("bundle", "prompt", "device", "threads")  # options that only a query uses


@click.command(cls=Command)
@click.argument("index", metavar="INDEX")
@click.argument("query", metavar="[QUERY]", required=False)
@option(LABELS, "--image", is_flag=True, help="QUERY is an image: a path or a URL.")
@option(LABELS, "--duplicates", is_flag=True, help="Without QUERY: the pairs of rows that are most alike.")
@option(LABELS, "--outliers", is_flag=True, help="Without QUERY: the rows that are least like any other.")
@OPTIONS["prompt"]
@option(LABELS, "--prefix", default="", metavar="TEXT", help="That INDEX was made with.")
@OPTIONS["bundle"]
@OPTIONS["device"]
@OPTIONS["threads"]
@option(OUTPUTS, "--count", type=click.IntRange(1), default=10, show_default=True, help="Rows to list, or pairs.")
@option(OUTPUTS, "--json", "as_json", is_flag=True, help="One JSON object per row.")
@click.version_option(package_name="attri")
def main(
    index: str,
    query: str | None,
    image: bool,
    duplicates: bool,
    outliers: bool,
    prompt: Path | None,
    prefix: str,
    bundle: Path,
    device: Device,
    threads: int | None,
    count: int,
    as_json: bool,
) -> None:
    """List the rows of INDEX that fit QUERY best: words, or with --image an image.

    INDEX is a folder that attri-batch --embeddings wrote, here or in a bucket (s3://, gs://, az://). Each row is listed
    with its cosine.

    --duplicates lists pairs of rows instead, the most alike first, and --outliers rows with the mean cosine of their 10
    nearest, the least first. Both compare every row with every other, and need no bundle.
    """
    require("pyarrow")
    from attri.runtime.dataset.output.bucket import place_of
    from attri.runtime.dataset.search import Index

    _check_asked(query, image, duplicates, outliers)
    rows = Index(place_of(index), prefix)
    if duplicates:
        for first, second in rows.duplicates(count):
            pair = {"cosine": round(first.cosine, 6), "rows": [first.columns, second.columns]}
            _print(as_json, pair, f"{first.cosine:.3f}  {_words(first)}  |  {_words(second)}")
        return
    if outliers:
        found = rows.outliers(count)
    else:
        found = _search(rows, str(query), image, count, bundle, prompt=prompt, device=device, threads=threads)
    for row in found:
        record = {**row.columns, "cosine": round(row.cosine, 6)}
        _print(as_json, record, f"{row.cosine:.3f}  {_words(row)}")


def _check_asked(query: str | None, image: bool, duplicates: bool, outliers: bool) -> None:
    """Check that one thing is asked for, and no option is given that it does not use. Raises UsageError."""
    if (query is not None) + duplicates + outliers != 1:
        raise UsageError("give one of QUERY, --duplicates and --outliers")
    if query is not None and not query.strip():
        raise UsageError("QUERY is empty: write what is sought, 'a red apple'")
    context = click.get_current_context()
    given = [each for each in (*_MODEL, "image") if context.get_parameter_source(each) is ParameterSource.COMMANDLINE]
    if query is None and given:
        raise UsageError(f"--{given[0]} is for a QUERY: duplicates and outliers are found by the rows alone")


def _search(rows: Index, query: str, image: bool, count: int, bundle: Path, **model: Any) -> list[Row]:
    """The rows that fit QUERY best. Raises AttriError."""
    from attri.runtime.batch import image_of
    from attri.runtime.classifier import Classifier
    from attri.runtime.dataset.search import search_text

    with Classifier.load(bundle, **model) as classifier:
        rows.check(classifier)
        if image:
            return rows.nearest(classifier.embed_images(image_of(query))[0], count)
        return search_text(rows, classifier, query, count)


def _words(row: Row) -> str:
    """Columns of a row, for a person."""
    shown = {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.columns.items()}
    return "  ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def _print(as_json: bool, record: dict[str, Any], words: str) -> None:
    click.echo(json_text(record, default=str) if as_json else printable(words))


if __name__ == "__main__":
    main()
