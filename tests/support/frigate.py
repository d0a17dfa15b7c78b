"""A stand-in for Frigate, by its documents: messages about tracked objects to an MQTT broker, and part of its HTTP API.

The part is what is about the images of objects and their sub labels, and the login of its port 8971:

https://docs.frigate.video/integrations/mqtt/, .../integrations/api/ and .../configuration/authentication/
"""

from __future__ import annotations

import io
import json
import random
import re
import secrets
import ssl
import string
import threading
import time
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from support.peers import wait_for


@dataclass
class Tracked:
    """An object of this Frigate; `box` is x1, y1, x2, y2 in the frame."""

    id: str
    camera: str
    label: str
    frame: Image.Image
    box: tuple[int, int, int, int]
    started: float
    snapshot: float
    ended: float | None = None
    sub_label: list[Any] | None = None

    @property
    def crop(self) -> Image.Image:
        return self.frame.crop(self.box)

    def state(self) -> dict[str, Any]:
        """Of a message, as far as the documents say what all of it is."""
        x1, y1, x2, y2 = self.box
        return {
            "id": self.id,
            "camera": self.camera,
            "frame_time": time.time(),
            "snapshot": {
                "frame_time": self.snapshot,
                "box": [*self.box],
                "area": (x2 - x1) * (y2 - y1),
                "region": [0, 0, 320, 320],
                "score": 0.77546,
                "attributes": [],
            },
            "label": self.label,
            "sub_label": self.sub_label,
            "top_score": 0.958984375,
            "false_positive": False,
            "start_time": self.started,
            "end_time": self.ended,
            "score": 0.7890625,
            "box": [*self.box],
            "area": (x2 - x1) * (y2 - y1),
            "ratio": 2.1,
            "region": [0, 0, 320, 320],
            "active": True,
            "stationary": False,
            "motionless_count": 0,
            "position_changes": 1,
            "current_zones": [],
            "entered_zones": [],
            "has_clip": False,
            "has_snapshot": True,
            "attributes": {},
            "current_attributes": [],
        }


@dataclass
class Frigate:
    """Frigate with its HTTP API on a port of its own and its messages at a broker.

    Attributes:
        posts: Event and body of each sub label that was set, in order.
        fails: Status codes of the next answers, if they are to be such.
        asked: Path and query of each request.
        users: Passwords and roles of users; where there are some, requests need the token of a login.
        tokens: That are valid now, and the role of each. Whoever clears them ends all sessions.
        certificate: File of certificate and key; with it the API speaks TLS.
    """

    broker: int
    topic: str = "frigate"
    users: dict[str, tuple[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    certificate: str | None = None
    objects: dict[str, Tracked] = field(default_factory=dict)
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", self.broker)
        self.client.loop_start()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"frigate": self}))
        self.port = self.server.server_port
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        wait_for(self.client.is_connected)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        del self.client  # and its sockets, before this, which is part of a circle
        self.server.shutdown()
        self.server.server_close()

    def appears(self, image: Image.Image, camera: str = "front_door", label: str = "person") -> str:
        """An object is tracked; its id. The image of it stands in a larger, gray frame."""
        now = time.time()
        found = f"{now:.6f}-{''.join(random.choices(string.ascii_lowercase + string.digits, k=6))}"
        frame, box = _framed(image)
        self.objects[found] = Tracked(found, camera, label, frame, box, now, now)
        self._publish("new", found, self.objects[found].state())
        return found

    def improves(self, event: str, image: Image.Image) -> None:
        """There is a better snapshot of it."""
        tracked = self.objects[event]
        before = tracked.state()
        tracked.frame, tracked.box = _framed(image)
        tracked.snapshot = time.time()
        self._publish("update", event, before)

    def moves(self, event: str) -> None:
        """It is somewhere else, and there is no better snapshot."""
        self._publish("update", event, self.objects[event].state())

    def leaves(self, event: str) -> None:
        before = self.objects[event].state()
        self.objects[event].ended = time.time()
        self._publish("end", event, before)

    def set_sub_label(self, event: str, label: str, score: float | None) -> None:
        """As from outside; while it is tracked a message says so."""
        tracked = self.objects[event]
        before = tracked.state()
        tracked.sub_label = [label, score]
        if tracked.ended is None:
            self._publish("update", event, before)

    def publish(self, payload: bytes) -> None:
        """Anything, on the topic of events."""
        self.client.publish(f"{self.topic}/events", payload).wait_for_publish(5)

    def _publish(self, kind: str, event: str, before: dict[str, Any]) -> None:
        message = {"type": kind, "before": before, "after": self.objects[event].state()}
        self.client.publish(f"{self.topic}/events", json.dumps(message))


class _Handler(BaseHTTPRequestHandler):
    frigate: Frigate
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.frigate.asked.append(self.path)
        if (found := self._found()) is None:
            return
        tracked, what, query = found
        if what == "thumbnail.jpg":
            thumbnail = tracked.crop.copy()
            thumbnail.thumbnail((175, 175))
            self._image(thumbnail)
        elif what == "snapshot.jpg":
            # "The query params only take affect while the event is in-progress."
            crop = tracked.ended is None and query.get("crop") == ["1"]
            marked = tracked.ended is not None or query.get("bbox") != ["0"]
            self._image(tracked.crop if crop else _with_box(tracked) if marked else tracked.frame)
        else:
            self._json(404, {"success": False, "message": "Not found"})

    def do_POST(self) -> None:
        self.frigate.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/login":
            self._login(json.loads(body))
            return
        if self.frigate.users and self._role() == "viewer":
            self._json(403, {"detail": "Role viewer not authorized. Required: admin"})
            return
        if (found := self._found()) is None:
            return
        tracked, what, _ = found
        try:
            sent = json.loads(body)
            label, score = sent["subLabel"], sent.get("subLabelScore")
            valid = isinstance(label, str) and len(label) <= 100 and (score is None or 0 < score <= 1)
        except (ValueError, KeyError, TypeError):
            valid = False
        if what != "sub_label" or not valid or self.headers["Content-Type"] != "application/json":
            self._json(422, {"detail": [{"type": "value_error"}]})
            return
        self.frigate.posts.append((tracked.id, sent))
        self.frigate.set_sub_label(tracked.id, label, score)
        self._json(200, {"success": True, "message": f"Event {tracked.id} sub label set to {label}"})

    def _login(self, sent: dict[str, str]) -> None:
        password, role = self.frigate.users.get(sent["user"], (None, ""))
        if password is None or password != sent["password"]:
            self._json(401, {"message": "Login failed"})
            return
        token = secrets.token_urlsafe()
        self.frigate.tokens[token] = role
        self.send_response(200)
        self.send_header("Set-Cookie", f"frigate_token={token}; HttpOnly; Path=/; SameSite=lax")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _role(self) -> str | None:
        """Of the user whose token a request has."""
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        return self.frigate.tokens.get(cookies["frigate_token"].value) if "frigate_token" in cookies else None

    def _found(self) -> tuple[Tracked, str, dict[str, list[str]]] | None:
        if self.frigate.fails:
            self._json(self.frigate.fails.pop(0), {"success": False, "message": "as the test has it"})
            return None
        if self.frigate.users and self._role() is None:
            self._json(401, {})
            return None
        parts = urlsplit(self.path)
        match = re.fullmatch(r"/api/events/([^/]+)/([^/]+)", parts.path)
        tracked = self.frigate.objects.get(match[1]) if match else None
        if match is None or tracked is None:
            self._json(404, {"success": False, "message": "Event not found"})
            return None
        return tracked, match[2], parse_qs(parts.query)

    def _image(self, image: Image.Image) -> None:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=95)
        self._answer(200, "image/jpeg", data.getvalue())

    def _json(self, status: int, content: object) -> None:
        self._answer(status, "application/json", json.dumps(content).encode())

    def _answer(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _framed(image: Image.Image) -> tuple[Image.Image, tuple[int, int, int, int]]:
    image = image.convert("RGB").resize((160, 160))
    frame = Image.new("RGB", (640, 480), (128, 128, 128))
    frame.paste(image, (200, 150))
    return frame, (200, 150, 360, 310)


def _with_box(tracked: Tracked) -> Image.Image:
    frame = np.array(tracked.frame)
    x1, y1, x2, y2 = tracked.box
    frame[y1:y2, [x1, x2 - 1]] = frame[[y1, y2 - 1], x1:x2] = (0, 255, 0)
    return Image.fromarray(frame)
