"""A lock in a bucket: an object that its holder writes again every few seconds.

A storage knows no locks, but makes an object only where there is none, when asked to (`If-None-Match: *` of S3 and
Azure, `ifGenerationMatch=0` of Google), so of two who ask at once one has it. A killed process leaves its lock behind:
whoever comes next watches it, and takes it when nobody has written it for a minute. Clocks are not compared.

A holder that finds another's lock in the place of its own has lost it, and may write no more: it had no network for so
long, or the storage does not know that condition and two asked within some milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attri.runtime._util.redact import redact
from attri.runtime.dataset.output.bucket import BucketPath
from attri.runtime.errors import FailedError

_LOGGER = logging.getLogger("attri")
BEAT = 10.0  # seconds after which the holder writes it again
LEASE = 60.0  # seconds after which one that nobody wrote is of a process that was killed


class BucketLock:
    """A lock for one process, on any machine.

    Args:
        place: Of the object.
        output: What it locks, for messages.
        beat: Seconds after which the holder writes it again.
        lease: Seconds after which another takes one that was not.
    """

    def __init__(self, place: BucketPath, output: str, beat: float = BEAT, lease: float = LEASE) -> None:
        self._place, self._output, self._beat, self._lease = place, output, beat, lease
        self._holder = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
        self._lost = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it.

        Raises:
            FailedError: Another process holds it.
            OSError: The storage does not let it be written.
        """
        while not self._take():
            self._watch()
        released = threading.Event()

        def renew() -> None:
            number = 0
            while not released.wait(self._beat):
                with suppress(OSError):  # no network: until it is there again, or another has taken the lock
                    self._lost = self._lost or not self._is_ours()
                    if self._lost:
                        return
                    number += 1
                    self._place.write_bytes(self._text(number))

        thread = threading.Thread(target=renew, name="bucket lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            released.set()
            thread.join()
            with suppress(OSError):  # whoever comes next waits for it to grow old
                if self._is_ours():
                    self._place.unlink()

    def check(self) -> None:
        """Check that it is held still. Raises FailedError."""
        if self._lost:
            raise FailedError(
                f"another attri-batch writes to {self._output} now: this one did not renew its lock in time, and ends"
            )

    def _take(self) -> bool:
        """Make it where it is not there; looked at first, for some storages that speak S3 do not know the condition."""
        return self._read() is None and (self._place.create(self._text(0)) or self._is_ours())

    def _watch(self) -> None:
        """Return when the lock is gone, or remove it when its holder was killed. Raises FailedError."""
        found = self._read()
        if found is None:
            return
        holder = self._named(found)
        _LOGGER.info("%s is locked by %s: looking for %.0f s whether that runs", self._output, holder, self._lease)
        end = time.monotonic() + self._lease
        while time.monotonic() < end:
            time.sleep(min(self._beat, self._lease) / 4)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise FailedError(f"another attri-batch ({self._named(now)}) writes to {self._output}: wait for it")
        _LOGGER.info("%s: %s does not run any more", self._output, holder)
        self._place.unlink()

    def _text(self, number: int) -> bytes:
        return json.dumps({**self._holder, "written": number}).encode()

    def _read(self) -> dict[str, Any] | None:
        """What is there; None where nothing is."""
        try:
            found = json.loads(self._place.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:  # nothing of ours
            return {}
        return found if isinstance(found, dict) else {}

    def _is_ours(self) -> bool:
        found = self._read()
        return found is not None and found.get("id") == self._holder["id"]

    @staticmethod
    def _named(found: dict[str, Any]) -> str:
        return redact(f"process {found.get('process', '?')} of {found.get('host', '?')}")
