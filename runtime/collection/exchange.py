"""Collected images to other tools and back: exported with their labels, and labels imported as answers."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attri.runtime._util.wording import plural
from attri.runtime.collection.folder import Collection, checked_label
from attri.runtime.collection.formats.base import LabelledImage
from attri.runtime.collection.formats.table import FORMATS
from attri.runtime.errors import UsageError


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        labels: Number of images by label.
        unlabelled: Images that nobody has labelled.
        negatives: Images that are none of the labels.
        whole: Whether the format has these too.
    """

    labels: dict[str, int]
    unlabelled: int
    negatives: int
    whole: bool

    def __str__(self) -> str:
        rest = [(self.unlabelled, "without a label"), (self.negatives, "that is none of the labels")]
        more = [f"{count} {what}" for count, what in rest if count]
        said = f"{plural(sum(self.labels.values()), 'image')} of {plural(len(self.labels), 'label')}"
        return said if not more else f"{said}; {'also' if self.whole else 'left out:'} {', '.join(more)}"


def labelled_images(files: Collection, predicted: bool = False) -> list[LabelledImage]:
    """Every image of a collection with its label, oldest first.

    Args:
        files: The collection.
        predicted: Whether images that nobody has labelled have the label that was decided when they were collected.

    Raises:
        UsageError: The folder cannot be read, or holds no collected images.
    """
    found = []
    try:
        for item in files.items():
            answer = files.answer(item.name)
            label = answer.label if answer is not None else item.label if predicted else None
            found.append(LabelledImage(item, files.image(item.name), label, answer is not None))
    except OSError as error:
        raise UsageError(f"{files.path}: {error.strerror or error}") from error
    if not found:
        raise UsageError(f"{files.path} holds no collected images: attri-run --collect DIR makes them")
    return found


def export_images(
    files: Collection, output: Path, format: str, *, predicted: bool = False, negatives: Path | None = None
) -> Exported:
    """Write the images of a collection for another tool: everything, or nothing.

    Args:
        files: The collection.
        output: A file or folder that does not exist.
        format: A key of FORMATS.
        predicted: As of `labelled_images`.
        negatives: Folder, which does not exist, for the images that are none of the labels.

    Raises:
        UsageError: Something is in the way, there is nothing to write, or a label does not fit the format.
        OSError: The disk does not take it.
    """
    chosen = FORMATS[format]
    images = labelled_images(files, predicted)
    none = [each for each in images if each.answered and each.label is None]
    labels = [each.label for each in images if each.label is not None]
    exported = Exported(
        labels={label: labels.count(label) for label in sorted(set(labels))},
        unlabelled=len(images) - len(labels) - len(none),
        negatives=len(none),
        whole=chosen.whole,
    )
    if not labels and not chosen.whole:
        raise UsageError(f"{files.path}: nothing is labelled yet: label on the page /review, or give `predicted`")
    with _new(output) as part, contextlib.nullcontext() if negatives is None else _new(negatives) as others:
        chosen.write(images, part)
        if others is not None:
            others.mkdir()
            for image in none:
                image.copy_to(others / image.jpeg.name)
    return exported


def import_answers(files: Collection, path: Path, format: str, *, replace: bool = False) -> tuple[int, int]:
    """Take over the labels that another tool wrote.

    Args:
        files: The collection.
        path: File or folder of the tool.
        format: A key of FORMATS.
        replace: Whether answers that are there and differ are replaced.

    Returns:
        The number of answers that were taken over, and that of images that are not in the collection.

    Raises:
        UsageError: It is not of this format, none of its images is in the collection, or answers differ; nothing was
            changed.
        OSError: A file cannot be read or written.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: name what the other tool has written")
    found = {name: checked_label(label) for name, label in FORMATS[format].read(path).items()}
    if not found:
        raise UsageError(f"{path} says nothing of any image: label some first")
    known = {name: label for name, label in found.items() if files.has(name)}
    if not known:
        raise UsageError(f"{path}: none of its {plural(len(found), 'image')} is in {files.path}")
    before = {name: files.answer(name) for name in known}
    new = {name: label for name, label in known.items() if (old := before[name]) is None or old.label != label}
    differing = [name for name in new if before[name] is not None]
    if differing and not replace:
        count = plural(len(differing), "other answer")
        raise UsageError(f"{files.path} has {count}, the first for {differing[0]}: `replace` takes these")
    files.set_answers(new)
    return len(new), len(found) - len(known)


@contextmanager
def _new(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` if the block succeeds, and is removed if it does not."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists: name another, or remove it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder: make it first")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        part.rename(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            part.unlink()
