"""Labels: the file that a person writes, the sentence that the model reads, and folder names as words."""

from __future__ import annotations

import codecs
import logging
import re
from pathlib import Path

from attri.runtime.errors import LabelsError, UsageError

_LOGGER = logging.getLogger("attri")
_SHOWN_REPEATS = 5


def read_labels(path: Path | str) -> list[str]:
    """The labels of a text file, one a line, in their order, each once. Format and errors: see `label_lines`."""
    return list(label_lines(path))


def label_lines(path: Path | str) -> dict[str, int]:
    """The labels of a text file, in their order, with the numbers of their lines, from 1.

    UTF-8 with or without BOM, or UTF-16 with BOM; lines end in LF, CRLF or CR. White space around a label is stripped;
    blank lines and lines that start with `#` are skipped. A repeated label keeps its first place, and one warning in
    the log names the lines.

    Raises: LabelsError: no such file, not text, another encoding, or no label in it.
    """
    path = Path(path)
    first_line: dict[str, int] = {}
    repeats: list[tuple[int, int]] = []
    # Not str.splitlines: it also breaks at form feeds and at U+2028, which no editor counts as lines.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", _decode(_read(path), path)), start=1):
        label = line.strip()
        if not label or label.startswith("#"):
            continue
        if label in first_line:
            repeats.append((number, first_line[label]))
        else:
            first_line[label] = number
    if not first_line:
        raise LabelsError(f"{path} holds no labels: write one label a line")
    if repeats:
        _warn_of_repeats(path, repeats)
    return first_line


def prompt(template: str, label: str) -> str:
    """`template` with its one `{}` replaced by `label`; braces inside the label mean nothing.

    Raises: UsageError: the template has no `{}`, or more than one.
    """
    before, *after = template.split("{}")
    if len(after) != 1:
        raise UsageError(f"the template {template!r} has {len(after)} of {{}}: write exactly one, where the label goes")
    return before + label + after[0]


def class_words(name: str) -> str:
    """A folder's name as words: "golden_retriever" gives "golden retriever"."""
    return " ".join(name.replace("_", " ").split())


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise LabelsError(f"{path} is a folder: name a text file with one label a line")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LabelsError(f"{path} does not exist: write a text file with one label a line") from error
    except OSError as error:
        raise LabelsError(f"{path} cannot be read: {error.strerror or error}") from error


def _decode(data: bytes, path: Path) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        # Not "utf-8-sig": it counts the offset of an error from behind the BOM.
        text = data.decode("utf-16" if wide else "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path} is not UTF-8 at byte {error.start}: save the file as UTF-8") from error
    if "\0" in text:
        raise LabelsError(f"{path} holds NUL bytes, so it is not plain text: save the file as UTF-8, one label a line")
    return text


def _warn_of_repeats(path: Path, repeats: list[tuple[int, int]]) -> None:
    shown = ", ".join(f"line {number} repeats line {first}" for number, first in repeats[:_SHOWN_REPEATS])
    more = f", and {len(repeats) - _SHOWN_REPEATS} more" if len(repeats) > _SHOWN_REPEATS else ""
    _LOGGER.warning("%s: repeated labels are used once: %s%s", path, shown, more)
