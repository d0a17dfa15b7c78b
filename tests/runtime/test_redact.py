"""No password in words, however it was written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.redact import redact


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rtsp://user:secret@host:554/a?b=c", "rtsp://***@host:554/a?b=c"),
        ("open rtsp://user:p@ss@host failed, http://x:secret@y too", "open rtsp://***@host failed, http://***@y too"),
        ("rtsp://secret@host", "rtsp://***@host"),
        ("http://host/video?user=me&password=secret&x=1", "http://host/video?user=me&password=***&x=1"),
        ("'http://host/?TOKEN=secret'", "'http://host/?TOKEN=***'"),
        ("gst:rtspsrc location=rtsp://u:secret@host ! decodebin", "gst:rtspsrc location=rtsp://***@host ! decodebin"),
        ("gst:rtspsrc user-id=me user-pw=secret ! x", "gst:rtspsrc user-id=me user-pw=*** ! x"),
        ("rtsp://user:pa/ss@host/1", "rtsp://***@host/1"),
        ("http://host:8080/people/me@home.jpg", "http://host:8080/people/me@home.jpg"),
        ("mail me@host about photos/a@b.png", "mail me@host about photos/a@b.png"),
        ("", ""),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, wanted: str) -> None:
    assert redact(text) == wanted


_WORDS = st.text(st.characters(exclude_characters="\"'<>", exclude_categories=["Z", "Cc", "Cs"]), min_size=1)


@given(_WORDS.filter(lambda word: not re.match(r"\d+/", word)))
def test_any_password(password: str) -> None:
    assert redact(f"lost rtsp://user:{password}@host/1: refused") == "lost rtsp://***@host/1: refused"
