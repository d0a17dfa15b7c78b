"""Counts with their nouns, for messages."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 label, 2 labels, 3 classes, 4 retries. The last word of `noun` takes the ending."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
