"""Escape control characters and bytes that are not UTF-8 in text for terminals and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; line and paragraph separators, at which some readers of lines break; and what turns the direction of
# the text around it, so that one name reads as another (Trojan Source).
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # Python's stand-ins for bytes of a file name that are not UTF-8


def as_text(value: str) -> str:
    r"""Replace bytes of a file name that are not UTF-8 by `\xff`, to show it; the file is opened by the original."""
    return _SURROGATE.sub(_escaped, value)


def printable(text: str) -> str:
    r"""Replace control characters, and bytes that are not UTF-8, by escapes: ESC is `\x1b`."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), as_text(text))


def printable_lines(text: str) -> str:
    """Apply `printable` to each line of a text."""
    return "\n".join(map(printable, text.split("\n")))


def json_text(value: Any, **options: Any) -> str:
    """Like `json.dumps`, with letters of all scripts as they are and control characters escaped.

    File names that are not UTF-8 are written as by `as_text`: Python would write lone surrogates, which are no Unicode
    text, so that strict readers refuse the whole object.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    text = _SURROGATE.sub(lambda found: "\\" + _escaped(found), text)
    # A raw line end is layout (indent=2): inside strings json.dumps has escaped it.
    return CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
