"""Labels: the file that a person writes, the sentence that the model reads, and folder names as words."""

from __future__ import annotations

import codecs
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from attri.runtime._util.printable import CONTROLS
from attri.runtime.errors import LabelsError, UsageError

_LOGGER = logging.getLogger("attri")
_SHOWN_REPEATS = 5


@dataclass(frozen=True)
class Label:
    """One line of a labels file.

    text     what is said when it is seen
    prompts  what the model looks for, one or more; the text alone unless the line says otherwise
    line     from 1
    """

    text: str
    prompts: tuple[str, ...]
    line: int

    def __str__(self) -> str:
        return self.text if self.prompts == (self.text,) else f"{self.text} = {'; '.join(self.prompts)}"


def read_labels(path: Path | str) -> list[str]:
    """The labels of a file that gives no prompts of their own, in order. Format, errors: see `parse_labels`."""
    labels = load_labels(path)
    if odd := next((label for label in labels if label.prompts != (label.text,)), None):
        raise LabelsError(f"{path} line {odd.line}: prompts of a label are for attri-run; here write the label alone")
    return [label.text for label in labels]


def load_labels(path: Path | str) -> list[Label]:
    """The labels of a file in UTF-8, with or without BOM, or UTF-16 with BOM. Format, errors: see `parse_labels`."""
    path = Path(path)
    return parse_labels(decode(read_bytes(path), path), str(path))


def parse_labels(text: str, name: str) -> list[Label]:
    """The labels of a text, one a line, in their order; `name` stands for it in messages.

        red apple
        defect = a scratched part; a dented part

    Lines end in LF, CRLF or CR. White space around a label is stripped, and a tab counts as a blank; blank lines and
    lines that start with `#` are skipped. Behind an equals sign with blanks around it stand the label's prompts, with
    semicolons between them; its score is that of the prompt that fits best. A repeated label keeps its first place, and
    one warning in the log names the lines.

    Raises:
        LabelsError: Control characters, no label, or an equals sign without a label before it or a prompt behind it.
    """
    found: dict[str, Label] = {}
    repeats: list[tuple[int, int]] = []
    # Not str.splitlines: it also breaks at form feeds and at U+2028, which no editor counts as lines.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        label = _parse(line.strip(), number, name)
        if label.text in found:
            repeats.append((number, found[label.text].line))
        else:
            found[label.text] = label
    if not found:
        raise LabelsError(f"{name} holds no labels: write one label a line")
    if repeats:
        _warn_of_repeats(name, repeats)
    return list(found.values())


def _parse(line: str, number: int, name: str) -> Label:
    line = line.replace("\t", " ")
    if found := CONTROLS.search(line):
        raise LabelsError(f"{name} line {number} holds the control character U+{ord(found[0]):04X}: take it out")
    text, *rest = re.split(r"(?:^|\s+)=(?:\s+|$)", line, maxsplit=1)
    if not text:
        raise LabelsError(f"{name} line {number}: there is no label before the equals sign: write label = one; another")
    if not rest:
        return Label(line, (line,), number)
    prompts = tuple(dict.fromkeys(part.strip() for part in rest[0].split(";") if part.strip()))
    if not prompts:
        raise LabelsError(f"{name} line {number}: {text!r} has no prompts: write {text} = one; another")
    return Label(text, prompts, number)


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


def read_bytes(path: Path) -> bytes:
    """What a labels file holds. Raises LabelsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> LabelsError:
    """What to do about a labels file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return LabelsError(f"{path} does not exist: write a text file with one label a line")
    if isinstance(error, IsADirectoryError):
        return LabelsError(f"{path} is a folder: name a text file with one label a line")
    return LabelsError(f"{path} cannot be read: {error.strerror or error}")


def decode(data: bytes, path: Path) -> str:
    """The text of a labels file, of which these bytes were read. Raises LabelsError."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        # Not "utf-8-sig": it counts the offset of an error from behind the BOM.
        text = data.decode("utf-16" if wide else "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path} is not UTF-8 at byte {error.start}: save the file as UTF-8") from error
    if "\0" in text:
        raise LabelsError(f"{path} holds NUL bytes, so it is not plain text: save the file as UTF-8, one label a line")
    return text


def _warn_of_repeats(name: str, repeats: list[tuple[int, int]]) -> None:
    shown = ", ".join(f"line {number} repeats line {first}" for number, first in repeats[:_SHOWN_REPEATS])
    more = f", and {len(repeats) - _SHOWN_REPEATS} more" if len(repeats) > _SHOWN_REPEATS else ""
    _LOGGER.warning("%s: repeated labels are used once: %s%s", name, shown, more)
