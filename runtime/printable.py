"""Text from outside, made safe for a terminal and for readers of JSON lines."""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; line and paragraph separators, at which some readers of lines break; and what turns the direction of
# the text around it, so that one name reads as another (Trojan Source).
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_UNPRINTABLE = re.compile(f"{CONTROLS.pattern}|[\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with control characters, and bytes of a file name that are no text, as escapes: ESC is \\x1b."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The same for each line of a text."""
    return "\n".join(map(printable, text.split("\n")))


def json_text(value: Any) -> str:
    """`value` as JSON on one line, readable, with every control character escaped."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
