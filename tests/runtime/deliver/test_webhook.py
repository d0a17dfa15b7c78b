"""The webhook against a real HTTP server that checks signatures, fails, redirects, hangs, and goes away."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.peers import HookServer, wait_for
from support.results import make_result

from attri.runtime._util.secrets import read_secret
from attri.runtime.deliver import webhook
from attri.runtime.deliver.spool import Message, Spool
from attri.runtime.deliver.webhook import WebhookSink
from attri.runtime.errors import UsageError

SECRET = "correct horse"


@pytest.fixture
def server() -> Iterator[HookServer]:
    server = HookServer()
    yield server
    server.close()


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], WebhookSink]]:
    monkeypatch.setattr(webhook, "PAUSES", (0.02, 0.1))
    monkeypatch.setattr(webhook, "TIMEOUT", 0.5)
    opened: list[WebhookSink] = []
    yield lambda url: opened.append(WebhookSink(url, SECRET, lambda: Spool(tmp_path / "s.sqlite"), 2)) or opened[-1]
    for sink in opened:
        sink.close()


def test_events_come_signed(server: HookServer, hook) -> None:
    sink = hook(server.url)
    for frame in (0, 2):
        sink.write(make_result(frame=frame, label="かりんご", changed=True))
    wait_for(lambda: sink.delivered == 2)
    assert server.frames == [0, 2]
    for headers, body in server.requests:
        stamped = headers["X-Attri-Timestamp"].encode() + b"." + body
        wanted = hmac.new(SECRET.encode(), stamped, hashlib.sha256).hexdigest()
        assert headers["X-Attri-Signature"] == f"sha256={wanted}"
        assert abs(int(headers["X-Attri-Timestamp"]) - time.time()) < 60
        assert json.loads(body)["label"] == "かりんご"
    assert json.loads(server.requests[0][1])["id"] != json.loads(server.requests[1][1])["id"]


def test_what_fails_is_tried_again_in_order(server: HookServer, hook, caplog) -> None:
    server.answers += [500, 429, "hang", 503, 200]
    sink = hook(server.url)
    for frame in range(3):
        sink.write(make_result(frame=frame, changed=True))
    wait_for(lambda: sink.delivered == 3)
    assert server.frames == [0, 0, 0, 0, 0, 1, 2]
    assert caplog.text.count("events are kept and tried again") == 1
    assert "T0KEN" not in caplog.text


def test_an_answer_that_drips_in_is_broken_off(server: HookServer, hook, caplog) -> None:
    """Each read of it is in time, and the status came at once."""
    server.answers += ["drip", 200]
    sink = hook(server.url)
    for frame in range(2):
        sink.write(make_result(frame=frame, changed=True))
    wait_for(lambda: sink.delivered == 2)
    assert server.frames == [0, 0, 1]
    assert "timed out" in caplog.text
    wait_for(server.dripped.is_set)  # nothing of the first one is left


@pytest.mark.parametrize("status", [400, 401, 404, 302, 307])
def test_what_is_refused_for_good_is_given_up(server: HookServer, hook, status: int, caplog) -> None:
    server.answers += [status]
    sink = hook(server.url)
    for frame in range(2):
        sink.write(make_result(frame=frame, changed=True))
    wait_for(lambda: sink.delivered == 1)
    assert server.frames == [0, 1]
    assert sink.given_up == 1
    assert f"was given up (status {status})" in caplog.text


def test_nobody_there_and_then_another_run(server: HookServer, hook) -> None:
    port = server.server.server_port
    server.close()
    sink = hook(f"http://127.0.0.1:{port}/")
    for frame in range(4):
        sink.write(make_result(frame=frame, changed=True))
    start = time.monotonic()
    sink.close()
    assert time.monotonic() - start < 5
    again = HookServer()
    hook(again.url)
    wait_for(lambda: again.frames == [0, 1, 2, 3])
    again.close()


def test_a_disk_that_gives_nothing_for_a_while(server: HookServer, hook, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    class BlindSpool(Spool):
        def after(self, *_: int) -> list[Message]:
            reads.append(1)
            return []

    monkeypatch.setattr(f"{__name__}.Spool", BlindSpool)
    sink = hook(server.url)
    sink.write(make_result(changed=True))
    wait_for(lambda: len(reads) > 2)  # it reads again by itself
    monkeypatch.delattr(BlindSpool, "after")
    wait_for(lambda: sink.delivered == 1)


def test_no_fault_quotes_the_path(hook, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def fail(*_: object, **__: object) -> None:
        raise http.client.InvalidURL("URL can't contain control characters. '/T0KEN'")

    monkeypatch.setattr(http.client.HTTPConnection, "request", fail)
    sink = hook("http://127.0.0.1:1/T0KEN")
    sink.write(make_result(changed=True))
    wait_for(lambda: "InvalidURL" in caplog.text)
    assert "T0KEN" not in caplog.text


def test_what_is_too_old_is_given_up(server: HookServer, hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "OLDEST", 0.0)
    server.answers += [503] * 2
    sink = hook(server.url)
    for frame in range(2):
        sink.write(make_result(frame=frame, changed=True))
    wait_for(lambda: sink.given_up == 2)
    assert server.frames == [0, 1]


@pytest.mark.parametrize(
    ("url", "secret", "words"),
    [
        ("ftp://host/x", SECRET, "http"),
        ("nonsense", SECRET, "http"),
        ("https://host/pa55 word", SECRET, "%20"),
        ("https://host/pa55\n", SECRET, "%20"),
        ("https://host/pa55ü", SECRET, "%20"),
        ("https://ann:pa55@host/x", SECRET, "no user and password"),
        ("https://host/x", None, "ATTRI_WEBHOOK_SECRET"),
    ],
)
def test_webhooks_that_are_none(tmp_path: Path, url: str, secret: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        WebhookSink(url, secret, lambda: Spool(tmp_path / "s.sqlite"), 1)
    assert "pa55" not in str(caught.value)
    assert not (tmp_path / "s.sqlite").exists()


def test_secrets_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.delenv("ATTRI_X", raising=False)
    assert read_secret("ATTRI_X", None) is None
    monkeypatch.setenv("ATTRI_X", " from there \n")
    assert read_secret("ATTRI_X", None) == "from there"
    file = tmp_path / "secret"
    file.write_text("from here\n")
    file.chmod(0o600)
    assert read_secret("ATTRI_X", file) == "from here"
    assert caplog.text == ""
    file.chmod(0o644)
    read_secret("ATTRI_X", file)
    assert "chmod 600" in caplog.text
    assert "from here" not in caplog.text


@pytest.mark.parametrize("data", [b"", b" \n", b"two\nlines", b"\xff\xfe", b"x" * 9999, None])
def test_files_that_hold_no_secret(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "secret"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UsageError, match="secret"):
        read_secret("ATTRI_X", file)


@pytest.mark.parametrize("value", [b"two\nlines", b"\xff\xfe", b"x" * 9999])
def test_environment_variables_that_hold_no_secret(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "ATTRI_X", os.fsdecode(value))
    with pytest.raises(UsageError, match="ATTRI_X has to hold the secret alone, on one line"):
        read_secret("ATTRI_X", None)
