"""Counts with their nouns, and names that are not Unicode text."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime._util.printable import CONTROLS, as_text, json_text
from attri.runtime._util.wording import first_line, format_utc, plural


@pytest.mark.parametrize(
    ("count", "noun", "wanted"),
    [
        (0, "frame", "0 frames"),
        (1, "frame", "1 frame"),
        (2, "label", "2 labels"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (5, "retry", "5 retries"),
        (2, "day", "2 days"),
        (2, "class folder", "2 class folders"),
    ],
)
def test_a_count_and_its_noun(count: int, noun: str, wanted: str) -> None:
    assert plural(count, noun) == wanted


def test_bytes_that_are_no_text_are_named() -> None:
    assert as_text(os.fsdecode(b"caf\xe9 \xe2\x98\x95.png")) == "caf\\xe9 ☕.png"
    assert as_text("\ud800") == "\\ud800"  # of no file name, but of a string that was cut in two


@given(st.dictionaries(st.text(st.characters()), st.text(st.characters()) | st.integers(), max_size=5))
def test_json_is_what_as_text_shows(value: dict[str, str | int]) -> None:
    """Hypothesis tries surrogates, quotes and backslashes beside each other."""
    shown = {as_text(key): as_text(each) if isinstance(each, str) else each for key, each in value.items()}
    text = json_text(value)
    assert json.loads(text.encode()) == shown
    if shown == value and not CONTROLS.search("".join(map(str, [*value, *value.values()]))):
        assert text == json.dumps(value, ensure_ascii=False)


def test_format_utc() -> None:
    assert format_utc(0) == "1970-01-01T00:00:00.000Z"
    assert format_utc(1_790_000_000.25) == "2026-09-21T14:13:20.250Z"


def test_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
