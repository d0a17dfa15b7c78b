"""What a hostile name can do to a terminal or to a reader of JSON lines: nothing."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.results import make_result

from attri.runtime._util.logs import JsonFormatter, TextFormatter
from attri.runtime._util.printable import CONTROLS, json_text, printable
from attri.runtime.deliver.console import ConsoleSink

EVIL = "a\x1b]0;owned\x07\x9b2J\u202egnp.exe\u2066\u2028\x7f.mp4"


@pytest.mark.parametrize("text", ["red apple", "かりんご", "می\u200cخواهم", "👩\u200d🔧", "at 10.30\u202fAM", "a\\b"])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


def test_controls_are_seen_as_escapes() -> None:
    assert printable("\x1b[2J\u202e\udcff\n") == r"\x1b[2J\u202e\xff\n"


@given(st.text())
def test_any_text_is_safe_and_json_gives_it_back(text: str) -> None:
    assert not CONTROLS.search(printable(text))
    line = json_text({text: [text]})
    assert not CONTROLS.search(line)
    assert json.loads(line) == {text: [text]}


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("label", ["red apple", EVIL, None])
def test_no_line_obeys_a_name(style: str, label: str | None) -> None:
    out = io.StringIO()
    ConsoleSink(style, 1, out).write(make_result(EVIL, label=label, time=0.0))
    (line,) = out.getvalue().split("\n")[:-1]
    assert not CONTROLS.search(line)
    assert "gnp.exe" in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_log_obeys_a_name(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("attri", logging.ERROR, "", 0, "error: %s cannot be read", (EVIL,), None)
    assert not CONTROLS.search(formatter.format(record))
