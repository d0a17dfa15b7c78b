"""Headless Chromium over the DevTools protocol, as much of it as tests of web pages need."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new --no-first-run --disable-gpu --disable-extensions --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --no-default-browser-check "
    "--disable-dev-shm-usage --remote-debugging-port=0 --password-store=basic --use-mock-keychain "
    "--force-color-profile=srgb"
)


class Browser:
    """One page in a browser of its own.

    Args:
        profile: Folder for the browser's profile.

    Attributes:
        requests: Every URL that was requested.
        complaints: Messages of the console and the log, and uncaught errors.
    """

    def __init__(self, profile: Path) -> None:
        from websockets.sync.client import connect

        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [str(CHROMIUM), *_FLAGS.split(), *root, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, path = self._wait_for(profile / "DevToolsActivePort")
        link = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None, proxy=None)
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(link)
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str, width: int = 1280, height: int = 900, phone: bool = False, dark: bool = False) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> Any:
        end = time.monotonic() + seconds
        # A DOM node would be serialized as {}, which is false in Python.
        while not (value := self.js(f"(value => value instanceof Node || value)({expression})")):
            assert time.monotonic() < end, f"never true: {expression}\n{self.complaints}"
            time.sleep(0.05)
        return value

    def key(self, name: str, modifiers: int = 0) -> None:
        """Press and release a key, as `KeyboardEvent.key` calls it; letters are small ones."""
        named = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            "Backspace": 8,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        code = named.get(name) or ord(name.upper())
        text = "" if modifiers else {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code="Space" if name == " " else name,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
                text=text if kind == "keyDown" else "",
            )

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._open.close()
        self._process.kill()
        self._process.wait()

    def _wait_for(self, file: Path) -> list[str]:
        end = time.monotonic() + 30
        while not file.exists() or len(lines := file.read_text().splitlines()) < 2:
            assert self._process.poll() is None, "Chromium did not start"
            assert time.monotonic() < end, "Chromium does not listen"
            time.sleep(0.05)
        return lines
