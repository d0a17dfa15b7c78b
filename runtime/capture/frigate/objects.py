"""Objects that Frigate tracks: its messages about them, and which of them are to be classified, and when.

Frigate publishes a message when an object appears, when it has a better snapshot of it, when anything else about it
changes (its sub label too), and when it is gone. An object is classified once for each snapshot; one that was never, by
its last image, when it is gone.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

_ID = re.compile(r"[\w.-]{1,64}")  # 1607123955.475377-mxklsc
MOST = 256  # objects that wait; the oldest goes first
_KNOWN = 4096  # objects whose last snapshot is remembered; of some the end is missed


class TrackedObject(NamedTuple):
    """What a message says about an object.

    Attributes:
        id: Of Frigate's event.
        camera: Name of the camera.
        label: What Frigate takes it for.
        over: Whether it is tracked no more.
        snapshot: Time of the best frame so far, Unix seconds.
    """

    id: str
    camera: str
    label: str
    over: bool
    snapshot: float


def parse_message(payload: bytes) -> TrackedObject | None:
    """Read a message of the topic PREFIX/events; None where it says nothing about an object that is to be seen."""
    try:
        message: Any = json.loads(payload)
        after = message["after"]
        snapshot = (after.get("snapshot") or {}).get("frame_time") or after["frame_time"]
        found = TrackedObject(
            str(after["id"]), str(after["camera"]), str(after["label"]), message["type"] == "end", float(snapshot)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return None if after.get("false_positive") or not _ID.fullmatch(found.id) else found


class ObjectQueue:
    """Objects that wait to be classified, the newest snapshot of each. One thread adds, another one takes.

    Args:
        wants: Whether an object of this camera and label is meant.

    Attributes:
        dropped: Objects that had to go, because too many waited.
    """

    def __init__(self, wants: Callable[[str, str], bool]) -> None:
        self._wants = wants
        self._waiting: dict[str, TrackedObject] = {}
        self._known: dict[str, float] = {}  # id -> time of the snapshot that was added last
        self._changed = threading.Condition()
        self._fault: str | None = None
        self.dropped = 0

    def add(self, payload: bytes) -> None:
        """Take a message, whatever it is."""
        found = parse_message(payload)
        if found is None or not self._wants(found.camera, found.label):
            return
        with self._changed:
            before = self._known.pop(found.id, None)
            if not found.over:
                self._known[found.id] = found.snapshot
            if found.id not in self._waiting and before is not None and (found.over or found.snapshot == before):
                return  # seen already
            self._waiting[found.id] = found
            for objects, most in ((self._waiting, MOST), (self._known, _KNOWN)):
                if len(objects) > most:
                    del objects[next(iter(objects))]
                    self.dropped += objects is self._waiting
            self._changed.notify()

    def fail(self, fault: str) -> None:
        """Note that nothing more comes."""
        with self._changed:
            self._fault = fault
            self._changed.notify()

    def take(self, seconds: float) -> TrackedObject | None:
        """The object that has waited longest; None where none came in time.

        Raises:
            ConnectionError: Nothing more comes; what waited was taken before.
        """
        with self._changed:
            if not self._waiting and self._fault is None:
                self._changed.wait(seconds)
            if self._waiting:
                return self._waiting.pop(next(iter(self._waiting)))
            if self._fault is not None:
                raise ConnectionError(self._fault)
            return None
