"""Wording of messages: counts with their nouns, timestamps as RFC 3339 UTC, the first line of an error."""

from __future__ import annotations

from datetime import datetime, timezone


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 label, 2 labels, 3 classes, 4 retries. The last word of `noun` takes the ending."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def format_utc(seconds: float) -> str:
    """Format a Unix time as RFC 3339 in UTC: "2026-11-25T09:31:48.250Z"."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
