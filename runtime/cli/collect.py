"""attri-collect: collected images to other tools and back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args

import click

from attri.runtime._util.wording import plural
from attri.runtime.cli.command import Command
from attri.runtime.collection.exchange import export_images, import_answers
from attri.runtime.collection.folder import Collection
from attri.runtime.collection.formats.table import FORMATS
from attri.runtime.errors import FailedError, UsageError

_LOGGER = logging.getLogger("attri")
Action = Literal["export", "import"]
_PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("action", type=click.Choice(get_args(Action)), metavar="export|import")
@click.argument("folder", type=_PATH)
@click.argument("file", type=_PATH)
@click.option("--format", type=click.Choice(list(FORMATS)), required=True, help="Format of FILE.")
@click.option("--predicted", is_flag=True, help="Export what nobody has labelled with the label that was decided.")
@click.option("--negatives", type=_PATH, help="Export images that are none of the labels into this folder.")
@click.option("--replace", is_flag=True, help="Import answers in the place of others that are there.")
@click.version_option(package_name="attri")
def main(
    action: Action, folder: Path, file: Path, format: str, predicted: bool, negatives: Path | None, replace: bool
) -> int:
    """Export the images in FOLDER, which attri-run --collect made, to FILE; or import what FILE says of them.

    FILE is a folder (folder, fiftyone, label-studio), a table (csv) or a zip archive (cvat). An export is written whole
    or not at all, with the bytes of the images as they are. An import changes answers, and nothing else.
    """
    for name, given, meant in (
        ("--predicted", predicted, "export"),
        ("--negatives", negatives is not None, "export"),
        ("--replace", replace, "import"),
    ):
        if given and meant != action:
            raise UsageError(f"{name} is for {meant}")
    files = Collection(folder)
    try:
        if action == "export":
            exported = export_images(files, file, format, predicted=predicted, negatives=negatives)
            for label, count in exported.labels.items():
                _LOGGER.info("%6d  %s", count, label)
            _LOGGER.info("%s: %s", file, exported)
        else:
            taken, foreign = import_answers(files, file, format, replace=replace)
            _LOGGER.info("%s: %s taken over", folder, plural(taken, "new answer"))
            if foreign:
                _LOGGER.warning("%s of %s not in %s", plural(foreign, "image"), file, folder)
    except OSError as error:
        raise FailedError(f"{error.filename or file}: {error.strerror or error}") from error
    return 0


if __name__ == "__main__":
    main()
