"""No password in words, however it was written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.redact import has_password, redact, redact_uri


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
        ("rtsp://user:it's@host/1", "rtsp://***@host/1"),
        ('rtsp://user:"<secret>"@host/1', "rtsp://***@host/1"),
        ("rtsp://h:554/user=me_password=secret_channel=1", "rtsp://h:554/user=me_password=***"),
        ("http://h/?loginuse=me&loginpas=secret&x=1", "http://h/?loginuse=me&loginpas=***&x=1"),
        ("http://h/?usr=me&psw=secret", "http://h/?usr=me&psw=***"),
        ('gst:rtspsrc user-pw="my secret" ! x', "gst:rtspsrc user-pw=*** ! x"),
        ("gst:rtspsrc user-pw = 'it\\'s secret' ! x", "gst:rtspsrc user-pw = *** ! x"),
        ('gst:rtspsrc user-pw="secret', "gst:rtspsrc user-pw=***"),
        ('extra-headers="a,Authorization=(string)Basic\\ secret" ! x', 'extra-headers="a,Authorization=***" ! x'),
        ("http://host:8080/people/me@home.jpg", "http://host:8080/people/me@home.jpg"),
        ("mail me@host about photos/a@b.png", "mail me@host about photos/a@b.png"),
        ("", ""),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, wanted: str) -> None:
    assert redact(text) == wanted


_ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
_WORDS = st.text(st.characters(exclude_categories=["Z", "Cc", "Cs"]), min_size=1)


@given(_WORDS.filter(lambda word: not re.match(r"\d+/", word)))  # or it is a port, and the @ is in a path
def test_any_password(password: str) -> None:
    assert redact(f"lost rtsp://user:{password}@host/1: refused") == "lost rtsp://***@host/1: refused"


@given(_ANY)
def test_any_password_of_a_source(password: str) -> None:
    """Blanks and all: how far it goes is known from the word, and remembered."""
    uri = f"rtsp://user:{password}@host/1"
    assert redact_uri(uri) == "rtsp://***@host/1"
    assert redact(f"lost {uri}: refused") == "lost rtsp://***@host/1: refused"


@given(_ANY.filter(lambda text: not set(text) & set("&;")))
def test_any_secret_parameter_of_a_source(secret: str) -> None:
    uri = f"http://host/?user=me&password={secret}&x=1"
    assert redact_uri(uri) == "http://host/?user=me&password=***&x=1"
    assert redact(f"lost {uri}: refused") == "lost http://host/?user=me&password=***&x=1: refused"


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("mqtt://ann@broker", False),
        ("camera0", False),
        ("http://h/?password=", False),
        ("http://h:8080/video", False),
        ("rtsp://ann:my secret@host", True),
        ("http://h/?psw=x", True),
        ("gst:rtspsrc user-pw='x'", True),
    ],
)
def test_a_user_alone_is_no_password(word: str, wanted: bool) -> None:
    assert has_password(word) == wanted
