"""Downloads of a file that break off, lie about their size, never end or crawl."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from support.fleet import StaticServer, serving

from attri.fleet.device.download import download
from attri.fleet.device.transport import FolderTransport, TransportError, WebTransport
from attri.fleet.release import Entry
from attri.runtime.errors import TrustError, UsageError

DATA = bytes(range(256)) * 400
ENTRY = Entry(len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "file").write_bytes(DATA)
    return tmp_path / "repo"


@pytest.fixture
def server(folder: Path):
    with serving(folder) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial"


@pytest.mark.parametrize("had", [0, 1, 1000, len(DATA) - 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_stopped(server: StaticServer, path: Path, had: int, ranges: bool) -> None:
    server.ranges = ranges
    path.write_bytes(DATA[:had])
    download(WebTransport(server.url), "file", ENTRY, path)
    assert path.read_bytes() == DATA


def test_a_server_that_hangs_up_again_and_again_is_asked_for_the_rest(server: StaticServer, path: Path) -> None:
    server.cut = len(DATA) // 10 + 1
    download(WebTransport(server.url), "file", ENTRY, path)
    assert path.read_bytes() == DATA
    assert len(server.paths) == 10


def test_a_server_without_ranges_that_hangs_up_is_given_up_and_keeps_what_is_there(
    server: StaticServer, path: Path
) -> None:
    server.cut, server.ranges = 1000, False
    with pytest.raises(TransportError, match=f"1000 of {len(DATA)} bytes"):
        download(WebTransport(server.url), "file", ENTRY, path)
    server.cut, server.ranges = len(DATA), True
    download(WebTransport(server.url), "file", ENTRY, path)
    assert path.read_bytes() == DATA


def test_a_file_that_is_longer_than_signed_is_cut_off(server: StaticServer, path: Path) -> None:
    server.endless = "file"
    with pytest.raises(TrustError, match="longer than"):
        download(WebTransport(server.url), "file", ENTRY, path)
    assert not path.exists()


@pytest.mark.parametrize("had", [0, 5000])
def test_another_content_is_removed_and_fetched_anew(server: StaticServer, folder: Path, path: Path, had: int) -> None:
    path.write_bytes(DATA[:had])
    (folder / "file").write_bytes(DATA[:-1] + b"!")
    with pytest.raises(TrustError, match="not the file that was signed"):
        download(WebTransport(server.url), "file", ENTRY, path)
    assert not path.exists()
    (folder / "file").write_bytes(DATA)
    download(WebTransport(server.url), "file", ENTRY, path)
    assert path.read_bytes() == DATA


def test_a_partial_file_that_is_wrong_or_too_long_is_not_built_upon(server: StaticServer, path: Path) -> None:
    path.write_bytes(b"x" * (len(DATA) + 5))
    download(WebTransport(server.url), "file", ENTRY, path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(TrustError):
        download(WebTransport(server.url), "file", ENTRY, path)
    download(WebTransport(server.url), "file", ENTRY, path)
    assert path.read_bytes() == DATA


def test_a_server_that_crawls_is_given_up(server: StaticServer, path: Path) -> None:
    server.pause = 0.002
    slow = WebTransport(server.url, slowest=1e6, patience=0.05)
    with pytest.raises(TransportError, match="bytes per second"):
        for _ in slow.read("file"):
            pass


def test_a_server_that_says_nothing_is_given_up(server: StaticServer, path: Path) -> None:
    server.pause = 5.0
    with pytest.raises(TransportError, match="timed out"):
        for _ in WebTransport(server.url, timeout=0.1).read("file"):
            pass


def test_a_missing_file_is_not_asked_for_again(server: StaticServer, path: Path) -> None:
    with pytest.raises(TransportError, match="404") as error:
        download(WebTransport(server.url), "nothing", ENTRY, path)
    assert error.value.missing
    assert len(server.paths) == 1


def test_an_empty_file_is_one(folder: Path, path: Path) -> None:
    (folder / "empty").write_bytes(b"")
    download(FolderTransport(folder), "empty", Entry(0, hashlib.sha256(b"").hexdigest()), path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_stick_with_something_else_than_files_is_not_read(folder: Path, path: Path, kind: str) -> None:
    odd = folder / "odd"
    {"link": lambda: odd.symlink_to("file"), "pipe": lambda: os.mkfifo(odd), "folder": odd.mkdir}[kind]()
    with pytest.raises(TransportError):
        download(FolderTransport(folder), "odd", ENTRY, path)


def test_a_proxy_of_the_environment_is_used(server: StaticServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(TransportError, match="404"):  # this server, asked as a proxy, has no file of that name
        list(WebTransport("http://elsewhere.invalid").read("file"))
    assert server.paths == ["http://elsewhere.invalid/file"]


@pytest.mark.parametrize("where", ["url", "netrc"])
def test_a_server_that_wants_a_login_gets_one(
    server: StaticServer, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    server.login = "pi:a/b"
    url = server.url
    if where == "url":
        url = url.replace("//", "//pi:a%2Fb@")
    else:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login pi password a/b\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    download(WebTransport(url), "file", ENTRY, path)
    assert path.read_bytes() == DATA
    assert server.logins == ["pi:a/b"]  # at once, and not after a refusal


def test_without_a_login_or_with_a_wrong_one_the_server_refuses(server: StaticServer, path: Path) -> None:
    server.login = "pi:right"
    for url in (server.url, server.url.replace("//", "//pi:wrong-one@")):
        with pytest.raises(TransportError, match=r"401: Unauthorized: it wants a login, give one in ~/.netrc") as error:
            download(WebTransport(url), "file", ENTRY, path)
        assert not error.value.missing
        assert "wrong-one" not in str(error.value)


def test_a_login_goes_to_no_other_server(server: StaticServer, folder: Path, path: Path) -> None:
    with serving(folder) as other:
        server.elsewhere = other.url
        download(WebTransport(server.url.replace("//", "//pi:secret@")), "file", ENTRY, path)
        assert (server.logins, other.logins) == (["pi:secret"], [""])


def test_a_netrc_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UsageError, match="the netrc file cannot be used"):
        WebTransport("http://127.0.0.1:1")
