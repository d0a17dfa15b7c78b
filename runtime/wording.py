"""How counts, file names and JSON are written, so that what a person or a program reads is always valid text."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")  # Python's stand-ins for bytes of a file name that are not UTF-8


def plural(count: int, noun: str) -> str:
    """ "1 label", "2 labels", "2 classes"."""
    ending = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{ending}"


def as_text(value: str) -> str:
    """`value` with each byte that is not UTF-8 as `\\xff`. Names are shown so; the file is opened by the original."""
    return _SURROGATE.sub(_escaped, value)


def json_text(value: Any, **options: Any) -> str:
    """`json.dumps`, letters of all scripts as they are, and every string shown as by `as_text`.

    Python would write a lone surrogate, which is no Unicode text: strict readers refuse the whole object.
    """
    return _SURROGATE.sub(lambda found: "\\" + _escaped(found), json.dumps(value, ensure_ascii=False, **options))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
