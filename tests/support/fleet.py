"""Repositories and devices for tests: signed for real, with releases of a few bytes, and web servers that misbehave."""

from __future__ import annotations

import base64
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from attri.fleet.device.store import open_store
from attri.fleet.device.update import pull
from attri.fleet.release import Kind, Release
from attri.fleet.repository.keys import Keys
from attri.fleet.repository.metadata import SignedMetadata
from attri.fleet.repository.repository import Repository
from attri.fleet.repository.roles import Owner
from attri.runtime.bundle import SCHEMA

SMALL = {"manifest.json": b"{}", "vision.onnx": b"vision" * 1000, "prompt.attri": b"first"}


def open_repository(folder: Path, *keys: Path, days: Mapping[str, int] | None = None) -> Repository:
    folders = [Keys(each, lambda: "secret") for each in keys or [folder.with_name("keys")]]
    return Repository(folder, SignedMetadata(folder / "metadata", folders, days or {}))


def make_repository(folder: Path, threshold: int = 1, days: Mapping[str, int] | None = None) -> Repository:
    repository = open_repository(folder, days=days)
    keys = Keys(folder.with_name("keys"), lambda: "secret")
    thresholds: dict[Owner, int] = {"root": threshold, "targets": 1, "online": 1}
    owned = {owner: [keys.create(owner) for _ in range(count)] for owner, count in thresholds.items()}
    repository.metadata.create(owned, thresholds)
    return repository


def push_files(
    repository: Repository,
    files: Mapping[str, bytes] = SMALL,
    wave: float | None = None,
    channel: str = "stable",
    kind: Kind = "bundle",
    schema: int = SCHEMA,
) -> Release:
    """Offer files that are no bundle."""
    entries = {}
    source = repository.folder.with_name("pushed")
    for name, content in files.items():
        source.write_bytes(content)
        entries[name] = repository.add(source)
    serial = repository.channel(channel).sequence + 1
    release = Release(serial, "2026-11-30T09:00:00+00:00", kind, schema, entries)
    repository.change(channel, lambda found: found.push(release, wave))
    return release


def root_of(repository: Path) -> Path:
    return repository / "metadata" / "1.root.json"


def pull_to(
    store: Path,
    where: Path | str,
    root: Path | None = None,
    channel: str = "stable",
    most: int | None = None,
    name: str = "device",
) -> Release | None:
    """One pull of a device."""
    if root is None and isinstance(where, Path) and not (store / "root.json").exists():
        root = root_of(where)
    with open_store(store) as opened:
        return pull(opened, str(where), channel, root, name, most)


def take_over(store: Path, *, probation: bool = False) -> None:
    """Say that what was pulled was checked, and let it run."""
    from attri.fleet.device.state import Update
    from attri.fleet.device.update import activate

    with open_store(store) as opened:
        assert opened.state.candidate is not None
        opened.save(update=Update(opened.state.candidate.release, "checked"))
        activate(opened, probation=probation)


def content(bundle: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}


def copy_tree(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


class StaticServer:
    """A web server of a folder, with ranges, that can be told to misbehave.

    Attributes:
        url: its address.
        paths: what was asked for, in order.
        ranges: whether it knows ranges.
        cut: bytes after which it hangs up on files.
        endless: part of paths after whose content it sends more, for as long as somebody reads.
        pause: seconds before each byte.
        login: user and password that it asks for; "" asks for none.
        logins: that were sent, in order.
        elsewhere: URL that it sends everybody to.
    """

    def __init__(self, folder: Path) -> None:
        self.paths: list[str] = []
        self.ranges, self.cut, self.endless, self.pause = True, 1 << 40, "", 0.0
        self.login, self.elsewhere = "", ""
        self.logins: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                sent = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
                outer.logins.append(sent)
                if outer.elsewhere:
                    self.send_response(302)
                    self.send_header("Location", outer.elsewhere + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if sent != outer.login and outer.login:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="updates"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                file = folder / self.path.lstrip("/")
                if not file.is_file():
                    self.send_error(404)
                    return
                data = file.read_bytes()
                found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(found[1]) if found and outer.ranges else 0
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                endless = bool(outer.endless) and outer.endless in self.path
                if not endless:
                    self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                with suppress(OSError):  # who asked has gone
                    self._send(data[start:] if endless else data[start:][: outer.cut], endless)

            def _send(self, data: bytes, endless: bool) -> None:
                if outer.pause:
                    for byte in data:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(outer.pause)
                else:
                    self.wfile.write(data)
                while endless:
                    self.wfile.write(b"more" * 4096)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def files(self) -> list[str]:
        """Files of releases that were asked for."""
        return [path for path in self.paths if path.startswith("/targets/files/")]


@contextmanager
def serving(folder: Path) -> Iterator[StaticServer]:
    server = StaticServer(folder)
    try:
        yield server
    finally:
        server.close()
