"""The preview's server over real sockets: what it says, whom it lets in, and what a hostile client can do to it."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.fakes import wait_for
from support.preview import TOKEN, Client, bearer
from support.results import LABELS, NOW, FakeControl, make_result

from attri.runtime._util.net import is_own_name, parse_address
from attri.runtime.capture.base import SourceState
from attri.runtime.deliver.updates.exchange import Exchange
from attri.runtime.errors import EngineError, FailedError, UsageError


def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    page = client("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/", "/preview.js", "/preview.css", "/preview.svg"):
        text = client(path).body.decode()
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), path
    for inline in (b"style=", b"onclick=", b"<style", b"javascript:"):
        assert inline not in page.body


def test_state_before_and_after_frames(client: Client) -> None:
    before = client("/api/state").json
    assert [(each["source"], each["number"], each["state"]) for each in before["sources"]] == [
        ("camera0", 0, "live"),
        ("rtsp://***@host/b", 0, "live"),
    ]
    assert before["detail"] is None
    for frame in range(3):
        client.preview.write(make_result("rtsp://***@host/b", frame, label="かりんご", dropped=4))
    after = client("/api/state?source=rtsp://***@host/b").json
    (_, found) = after["sources"]
    assert found == {
        "source": "rtsp://***@host/b",
        "shown": "rtsp://***@host/b",
        "number": 3,
        "card": True,
        "state": "live",
        "detail": "",
        "frames": 120,
        "dropped": 3,
        "restarts": 1,
        "fps": 29.7,
        "last_frame": NOW,
        "waiting": 0,
        "label": "かりんご",
        "score": 0.75,
        "age_ms": 41.0,
    }
    assert after["detail"] == {
        "top": [["かりんご", 0.75], ["red apple", 0.125], ["bird", 0.125]],
        "labels": 3,
        "retrieved": [
            [{"entry": 0, "attracts": []}, {"entry": 3, "attracts": []}],
            [{"entry": 1, "attracts": []}, {"entry": 1, "attracts": []}],
        ],
        "nearest": [],
        "cache": "hit",
        "latency_ms": [[1.0, 20.0, 2.0]] * 3,
    }
    assert client("/api/state?source=nobody").json["detail"] is None


def test_images_of_a_folder_are_one_source(client: Client) -> None:
    for number in range(70):
        client.preview.write(make_result(f"folder/{number}.png", origin="folder"))
    sources = client("/api/state").json["sources"]
    assert [each["source"] for each in sources] == ["camera0", "rtsp://***@host/b", "folder"]
    assert (sources[2]["number"], sources[2]["shown"]) == (70, "folder/69.png")
    assert [each["card"] for each in sources] == [False, False, True]


def test_more_live_sources_than_places(open_preview) -> None:
    """Those that came first stay, the others are counted; one that has ended gives its place away."""
    names = [f"camera{i}" for i in range(70)]
    client = open_preview(FakeControl(*names))
    for frame in range(1, 4):
        for name in names:
            client.preview.write(make_result(name, frame))
        state = client("/api/state").json
        assert [each["source"] for each in state["sources"] if each["card"]] == names[:64]
        assert {each["number"] for each in state["sources"] if each["card"]} == {frame}
        assert state["left_out"] == 6
    client.control.states |= {"camera3": "ended", "camera5": "dead", "camera6": "retrying"}

    def shown() -> list[str]:
        for name in names[64:]:
            client.preview.write(make_result(name))
        return [each["source"] for each in client("/api/state").json["sources"] if each["card"]]

    wait_for(lambda: set(names[:64]) - set(shown()) == {"camera3", "camera5"})
    assert client("/api/state").json["left_out"] == 4
    assert client("/api/frame?source=camera69").status == 404


def test_videos_one_after_the_other_take_turns(open_preview) -> None:
    names = [f"{i}.mp4" for i in range(40)]
    client = open_preview(FakeControl(*names, state="opening"))
    for name in names:
        client.preview.write(make_result(name, time=0.0))
        client.control.states[name] = "ended"
        assert client(f"/api/state?source={name}").json["detail"] is not None
    assert client("/api/state").json["left_out"] == 0


def test_frames(client: Client, image_files: list) -> None:
    assert client("/api/frame?source=camera0").status == 404
    client.preview.write(make_result(image=image_files[0]))
    first = client("/api/frame?source=camera0")
    assert (first.status, first.headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(first.body)), np.float32)
    truth = np.asarray(Image.open(image_files[0]).convert("RGB"), np.float32)
    assert np.abs(shown - truth).mean() < 8  # JPEG at quality 80 of a drawn image
    assert client("/api/frame?source=camera0").body == first.body
    client.preview.write(make_result(frame=1, image=np.zeros((3000, 1500, 3), np.uint8)))
    second = client("/api/frame?source=camera0")
    assert Image.open(io.BytesIO(second.body)).size == (480, 960)
    assert (first.headers["x-attri-number"], second.headers["x-attri-number"]) == ("1", "2")


def test_labels_can_be_read_and_with_the_token_changed(client: Client) -> None:
    assert client("/api/labels").body.decode() == "red apple\nかりんご\nbird\n"
    new = "cat\nDücke = a duck\n".encode()
    answer = client("/api/labels?source=camera0", "PUT", new, **bearer())
    assert (answer.status, answer.body) == (200, new)
    assert client("/api/labels?source=camera0").body == new
    assert client("/api/labels?source=rtsp://***@host/b").body.decode().split() == ["red", "apple", *LABELS[1:]]
    assert client("/api/labels").status == 409  # they differ
    assert client("/api/labels?source=nobody").status == 404
    assert client("/api/labels?source=nobody", "PUT", b"x", **bearer()).status == 400
    client("/api/labels", "PUT", b"x", **bearer())
    assert client("/api/labels").body == b"x\n"
    assert client.control.lines == {"camera0": ["x"], "rtsp://***@host/b": ["x"]}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no labels"),
        (b"\xff\xfe", 400, "not UTF-8 at byte 0"),
        (b"x" * ((1 << 20) + 1), 413, "larger than 1 MB"),
    ],
)
def test_labels_that_are_none_change_nothing(client: Client, body: bytes, status: int, words: str) -> None:
    answer = client("/api/labels", "PUT", body, **bearer())
    assert answer.status == status
    assert words in answer.json["error"]
    assert client("/api/labels").body.decode().split("\n")[0] == "red apple"


def test_labels_are_written_to_their_file(client: Client) -> None:
    both = {"file": None, "edited": False, "sources": ["camera0", "rtsp://***@host/b"]}
    assert client("/api/labels/file").json == both
    client("/api/labels?source=camera0", "PUT", b"cat", **bearer())
    path, origin = "/api/labels/file?source=camera0", {"file": "camera0.txt", "sources": ["camera0"]}
    assert client(path).json == origin | {"edited": True}
    assert client(path, "PUT").status == 401
    assert client.control.written["camera0"] == list(LABELS)
    answer = client(path, "PUT", **bearer())
    assert (answer.status, answer.json) == (200, origin | {"edited": False})
    assert client.control.written["camera0"] == ["cat"]
    assert client("/api/labels/file?source=nobody").status == 404
    assert client("/api/labels/file?source=nobody", "PUT", **bearer()).status == 409


def test_what_fails_here_is_no_fault_of_the_request(open_preview) -> None:
    class Full(FakeControl):
        def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
            raise EngineError("the text engine takes 100 labels at most")

        def write_labels(self, source: str | None = None, task: str | None = None) -> None:
            raise FailedError("labels.txt cannot be written: No space left on device")

    client = open_preview(Full())
    for path, words in (("/api/labels", "100 labels at most"), ("/api/labels/file", "No space left")):
        answer = client(path, "PUT", b"cat", **bearer())
        assert answer.status == 500
        assert words in answer.json["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer("wrong"), 401),
        (bearer(""), 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        (bearer() | {"Origin": "http://evil.example"}, 403),
        (bearer() | {"Origin": "null"}, 403),
        (bearer() | {"Origin": "http://127.0.0.1:1"}, 403),  # another port is another page
        (bearer() | {"Host": "evil.example"}, 421),
        (bearer() | {"Host": "evil.example", "Origin": "http://evil.example"}, 421),  # DNS rebinding
        (bearer(), 200),
    ],
)
def test_who_may_change_labels(client: Client, headers: dict[str, str], status: int) -> None:
    assert client("/api/labels", "PUT", b"cat", **headers).status == status
    assert (client.control.labels() == ["cat"]) == (status == 200)


def test_behind_a_proxy(open_preview) -> None:
    client = open_preview(FakeControl(), allowed_hosts=("Cameras.plant.example",))
    through = {"Host": "cameras.plant.example", "Origin": "https://cameras.plant.example"}
    rewritten = {"Host": "127.0.0.1", "Origin": "https://cameras.plant.example:8443"}
    for headers in (through, rewritten):
        assert client("/api/state", **headers).status == 200
        assert client("/api/labels", "PUT", b"cat", **bearer(), **headers).status == 200
    assert client("/api/state", Host="evil.example").status == 421
    evil = through | {"Origin": "https://evil.example"}
    assert client("/api/labels", "PUT", b"cat", **bearer(), **evil).status == 403


def test_our_own_page_may(client: Client) -> None:
    own = {"Origin": f"http://127.0.0.1:{client.preview.port}"}
    assert client("/api/labels", "PUT", b"cat", **bearer(), **own).status == 200


def test_without_a_token_nobody_changes_anything(open_preview) -> None:
    client = open_preview(FakeControl(), token=None)
    assert client("/api/state").json["editable"] is False
    for headers in ({}, bearer(""), bearer("None")):
        assert client("/api/labels", "PUT", b"cat", **headers).status == 403
    assert client.control.labels() == list(LABELS)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1"])
def test_a_name_that_is_not_ours_reads_nothing(client: Client, host: str) -> None:
    for path in ("/", "/api/state", "/healthz", "/metrics"):
        assert client(path, Host=host).status in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8080", "10.0.0.7", "LOCALHOST"])
def test_names_of_this_machine(host: str) -> None:
    assert is_own_name(host)
    assert is_own_name(socket.gethostname())


def test_open_to_others_everything_needs_the_token(open_preview) -> None:
    for token in (None, "guess", "geheimes Wörtchen"):
        with pytest.raises(UsageError, match="ATTRI_SERVE_TOKEN"):
            open_preview(FakeControl(), token=token, host="0.0.0.0")
    client = open_preview(FakeControl(), host="0.0.0.0")
    client.preview.write(make_result())
    for path in ("/api/state", "/api/frame?source=camera0", "/api/labels", "/metrics"):
        assert client(path).status == 401, path
        assert client(path, **bearer()).status == 200, path
    for path in ("/", "/preview.js", "/preview.css", "/healthz"):
        assert client(path).status == 200, path
    assert "camera0" not in client("/").body.decode()
    assert client("/healthz").json == client("/healthz", **bearer("wrong")).json == {"status": "ok"}
    assert client("/healthz", **bearer()).json == {"status": "ok", "sources": {"camera0": "live"}}


@pytest.mark.parametrize(
    ("states", "status", "word"),
    [
        (["live", "live"], 200, "ok"),
        (["live", "dead"], 200, "degraded"),
        (["opening", "retrying"], 200, "degraded"),
        (["frozen", "dead"], 503, "failing"),
        (["ended", "ended"], 200, "ok"),
    ],
)
def test_healthz(client: Client, states: list[SourceState], status: int, word: str) -> None:
    client.control.states = dict(zip(client.control.states, states, strict=True))
    answer = client("/healthz")
    assert (answer.status, answer.json["status"]) == (status, word)
    assert list(answer.json["sources"].values()) == states


def test_healthz_says_what_runs_where_updates_are_followed(open_preview, tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    update = {"release": "4-c6f4", "state": "refused", "reason": "3 of 9 golden images are right"}
    exchange.tell_update({"runs": "3-1bd8", "update": update})
    answer = open_preview(FakeControl(), updates=exchange)("/healthz")
    assert answer.json == {"status": "ok", "sources": {"camera0": "live"}, "bundle": "3-1bd8", "update": update}


def test_healthz_of_a_name_that_is_no_text(open_preview) -> None:
    client = open_preview(FakeControl("/data/\udcff.mp4"))
    assert client("/healthz").json["sources"] == {"/data/?.mp4": "live"}
    assert client("/api/state").json["sources"][0]["source"] == "/data/?.mp4"


def test_metrics_are_here_too(client: Client) -> None:
    assert b'attri_source_state{source="camera0",state="live"} 1.0' in client("/metrics").body


@pytest.mark.parametrize("path", ["/nothing", "/api", "/../etc/passwd", "/preview.py", "/%2e%2e/preview.py", "//"])
def test_paths_that_are_none(client: Client, path: str) -> None:
    assert client(path).status == 404


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_methods_that_are_none(client: Client, method: str) -> None:
    assert client("/api/labels", method, **bearer()).status == 405


def test_every_answer_carries_the_headers(client: Client) -> None:
    for answer in (client("/"), client("/nothing"), client("/", Host="evil.example"), client("/api/labels", "PUT")):
        for name in ("content-security-policy", "x-content-type-options", "cross-origin-resource-policy"):
            assert name in answer.headers
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("jetson.local:1", ("jetson.local", 1)),
        *[
            (odd, None)
            for odd in ("", "x", ":80", "a:b:1", "1.2.3.4:", "1.2.3.4:99999", "99999", "１", "http://h:1", "::1:80")
        ],
    ],
)
def test_addresses(text: str, address: tuple[str, int] | None) -> None:
    if address is None:
        with pytest.raises(UsageError, match=r"no address|no port"):
            parse_address(text)
    else:
        assert parse_address(text) == address


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Client]:
    client = Client(FakeControl("camera0"))
    client.preview.write(make_result())
    yield client
    client.preview.close()


_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=" "), max_size=40)
_PATHS = st.sampled_from(["/", "/api/state", "/api/frame", "/api/labels", "/healthz", "/metrics"])
_NAMES = st.sampled_from(["Host", "Origin", "Authorization", "Content-Length", "Transfer-Encoding", "Range", "Cookie"])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "POST", "X"]),
    path=_PATHS,
    query=_TEXT,
    headers=st.lists(st.tuples(_NAMES, _TEXT), max_size=5),
    body=st.binary(max_size=200),
)
def test_no_request_breaks_it(fuzzed: Client, method, path, query, headers, body) -> None:
    """Every answer is a refusal or a success, never a bug (500), and nothing changes without the token."""
    lines = [f"{method} {path}?source={query} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    answer = fuzzed.raw("\r\n".join(lines).encode() + b"\r\nConnection: close\r\n\r\n" + body)
    assert answer == b"" or answer.split()[1] in (b"200", b"400", b"401", b"403", b"404", b"405", b"413", b"421")
    assert fuzzed.control.labels() == list(LABELS)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300))
def test_no_bytes_break_it(fuzzed: Client, data: bytes) -> None:
    answer = fuzzed.raw(data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert fuzzed("/healthz").status == 200


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=300))
def test_no_labels_break_it(fuzzed: Client, body: bytes) -> None:
    answer = fuzzed("/api/labels", "PUT", body, **bearer())
    assert answer.status in (200, 400)
    fuzzed.control.lines["camera0"] = list(LABELS)
