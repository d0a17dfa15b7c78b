"""Servers of real streams on loopback: RTSP by GStreamer in the system's Python, and MJPEG over HTTP."""

from __future__ import annotations

import base64
import http.server
import io
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-ugly python3-opencv python3-pil python3-click"
)


def needs_system(code: str) -> pytest.MarkDecorator:
    """Skip where the system's Python cannot run `code`."""
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True)
        missing = done.returncode != 0
    except OSError:
        missing = True
    return pytest.mark.skipif(missing, reason=f"needs Debian's {PACKAGES}")


NEEDS_RTSP = needs_system(
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; Gst.init();"
    "assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'videotestsrc')))"
)
NEEDS_GSTREAMER = needs_system(
    "import cv2, PIL, click, re; assert re.search(r'GStreamer:\\s+YES', cv2.getBuildInformation())"
)


class RtspServer:
    """One that can be killed, and come back on the same port."""

    def __init__(self, account: str = "") -> None:
        self._account, self.port = account, 0
        self.start()

    def uri(self, path: str = "/cam", account: str = "") -> str:
        return f"rtsp://{account}{'@' * bool(account)}127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        script = Path(__file__).parent / "rtsp_server.py"
        words = [SYSTEM_PYTHON, str(script), str(self.port), *([self._account] if self._account else [])]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Another image for each number; its width and height in pixels."""
    data = io.BytesIO()
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])) + 7 * number
    Image.fromarray(np.stack([ramp, ramp * 2, ramp * 3], -1).astype(np.uint8)).save(data, "JPEG")
    return data.getvalue()


ERRORS = {"/forbidden": 403, "/broken": 500}


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        server = self.server.owner
        server.requests += 1
        wanted = "Basic " + base64.b64encode(b"user:secret").decode()
        if self.path == "/private" and self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
        elif self.path == "/page":
            self._answer("text/html", b"<html>" + b"no camera here " * 1000)
        elif self.path in ERRORS:
            self.send_error(ERRORS[self.path])
        elif self.path.startswith("/none"):
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            self._stream(server)

    def _answer(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, server: MjpegServer) -> None:
        """What the path asks for: /garbage has no image in it, /bad every third damaged, /frozen repeats itself after
        five, /sizes changes after five, /silent stops after five, /short ends after five."""
        try:
            for number in itertools.count():
                size = (96, 80) if self.path == "/sizes" and number > 4 else (64, 48)
                data = jpeg(min(number, 4) if self.path == "/frozen" else number, size)
                if self.path == "/garbage" or (self.path == "/bad" and number % 3 == 2):
                    data = b"\xff\xd8garbage" * 30
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
                self.wfile.write(data + b"\r\n")
                server.sent += 1
                if self.path == "/short" and number == 5:
                    return
                while self.path == "/silent" and number == 5 and not server.over.wait(0.1):
                    pass
                if server.over.wait(1 / server.rate):
                    return
        except OSError:
            return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    owner: MjpegServer


class MjpegServer:
    """See `_Handler._stream`; `rate` in frames per second; port 0 is any free one."""

    def __init__(self, rate: float = 30, port: int = 0) -> None:
        self.rate, self.sent, self.requests = rate, 0, 0
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self.port: int = self._server.server_port
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def uri(self, path: str = "/cam", account: str = "") -> str:
        return f"http://{account}{'@' * bool(account)}127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def mjpeg_server(rate: float = 30) -> Iterator[MjpegServer]:
    server = MjpegServer(rate)
    try:
        yield server
    finally:
        server.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
