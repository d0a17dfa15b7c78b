"""No password in words, however it was written."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attri.runtime
from attri.runtime._util.redact import Redactor, has_password, redact, redact_uri


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
        ("http://h/?token=secret: Connection refused", "http://h/?token=***: Connection refused"),
        ("(http://h/?token=secret), and so on", "(http://h/?token=***), and so on"),
        ("http://h/?token=sec:ret.x,y", "http://h/?token=***"),
        ("rtsp:/u:secret@host/x does not exist", "rtsp:/***@host/x does not exist"),
        ("--mqtt takes mqtt://[USER:PASSWORD@]HOST[:PORT]", "--mqtt takes mqtt://[USER:PASSWORD@]HOST[:PORT]"),
        ("--mqtt takes mqtt://[USER@]HOST[:PORT], or", "--mqtt takes mqtt://[USER@]HOST[:PORT], or"),
        ("a password needs a user: mqtt://USER@HOST", "a password needs a user: mqtt://USER@HOST"),
        ("mqtt://[USER@]HOST and mqtt://u:secret@h", "mqtt://[USER@]HOST and mqtt://***@h"),
        ("mqtt://[USER:secret@host", "mqtt://***@host"),
        ("", ""),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, wanted: str) -> None:
    assert redact(text) == wanted


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
_WORDS = st.text(st.characters(exclude_categories=["Z", "Cc", "Cs"]), min_size=1)


@given(_WORDS.filter(lambda word: not re.search(r"^\d+/|@.*/", word)))  # or that is a port or host, and then a path
def test_any_password(password: str) -> None:
    assert redact(f"lost rtsp://user:{password}@host/1: refused") == "lost rtsp://***@host/1: refused"


@given(_ANY.filter(lambda word: not re.search("(?s)@.*/", word)))  # or what is between the two is the host
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


_MARK = "S3CRET"  # stands in a random text that is longer: one letter alone would be found anywhere
_AROUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_USERS = st.text(st.characters(categories=["L", "N"]), max_size=6)
_BEFORE_USER = st.sampled_from(
    ["rtsp://", "RTSP://", "rtsp:/", "rtsp:///", "rtsp:", "rtsp//", "rtsp/", "", "//", "x+y://", "htp://", "mqtt:/"]
)


@given(_BEFORE_USER, _USERS, _AROUND, _AROUND, st.sampled_from(["host", "host/x", "[::1]:554/x", "h/a@b", ""]))
def test_a_password_however_the_uri_was_mistyped(before: str, user: str, left: str, right: str, after: str) -> None:
    uri = f"{before}{user}:{left}{_MARK}{right}@{after}"
    assert has_password(uri)
    assert _MARK not in redact_uri(uri)
    assert _MARK not in redact(f"error: {uri} does not exist")


@given(st.sampled_from(["rtsp://h/?a=1&{}={}&b=2", "rtsp:/h/x?{}={}", "h?{}={}", "x_{}={}"]), _AROUND, _AROUND)
def test_a_secret_parameter_wherever_it_stands(form: str, left: str, right: str) -> None:
    for name in ("password", "token", "user-pw", "API-KEY"):
        uri = form.format(name, (left + _MARK + right).replace("&", "").replace(";", ""))
        assert _MARK not in redact_uri(uri)
        assert _MARK not in redact(f"lost {uri}: refused")


@given(st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters="&;\"'<>\\"), max_size=8))
def test_the_sentence_around_a_secret_stays(secret: str) -> None:
    told = redact(f"http://h/?token={secret}{_MARK}: Connection refused")
    assert told == "http://h/?token=***: Connection refused"


@pytest.mark.parametrize(
    "word", ["photos/me@home.jpg", "photo@2x.png", "me@host", "http://h/a@b.jpg", "a:b.png", "c:/x"]
)
def test_a_word_without_a_password_stays(word: str) -> None:
    assert redact_uri(word) == word
    assert not has_password(word)


def test_a_redactor_keeps_the_secrets_that_it_saw_last() -> None:
    redactor = Redactor(most=2)
    uris = [f"rtsp://user:my secret {number}@host" for number in range(3)]
    for uri in (uris[0], uris[1], uris[0], uris[2]):
        assert redactor.redact_uri(uri) == "rtsp://***@host"
    assert [redactor.redact(f"lost {uri}") == "lost rtsp://***@host" for uri in uris] == [True, False, True]


def test_no_message_of_the_program_is_redacted() -> None:
    """What it says of how a URL is written has to stay readable."""
    for file in Path(attri.runtime.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str]
        docstrings = [ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
        for text in set(texts) - set(docstrings):
            assert redact(text) == text, file.name


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("rtsp:/u:p%40ss@host/x", True),
        ("u:p%40ss@host/x", True),
        ("--mqtt=mqtt://u:pw@host", True),
        ("mqtt://ann@broker", False),
        ("rtsp:ann:/pw@host", True),
        ("rtsp//ann:/pw@host", True),
        ("ann:/pw@host", True),
        ("gst:rtspsrc location=rtsp://ann@host", False),
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
