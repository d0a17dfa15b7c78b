"""Frigate's HTTP API: the snapshot of an object, and its sub label."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
from urllib.parse import quote

from attri.runtime._util.backoff import backoff_delay
from attri.runtime.capture.frigate.session import FrigateSession
from attri.runtime.errors import FailedError

_ATTEMPTS = 4
PAUSES = (0.5, 4.0)  # seconds between attempts, the first and the longest
_LARGEST = 1 << 25  # bytes of a snapshot
_SNAPSHOT = "snapshot.jpg?crop=1&bbox=0&timestamp=0&quality=95"
_LONGEST = 100  # characters of a sub label, by the API


class FrigateApi:
    """Requests to the API. One that gets no answer, or a 5xx, is tried again a few times, with growing pauses.

    Args:
        session: With Frigate.
        stop: Set when nothing is to be waited for any more.

    Attributes:
        address: http://HOST:PORT.
    """

    def __init__(self, session: FrigateSession, stop: threading.Event) -> None:
        self.address, self._session, self._stop = session.api, session, stop

    def snapshot(self, event: str, *, over: bool) -> bytes | None:
        """The image of an object, cut out of its frame.

        Args:
            event: Its id.
            over: Whether it is tracked no more. Then Frigate cuts nothing out of a snapshot, and its thumbnail, which
                is smaller, is taken; so it is where there is no snapshot.

        Returns:
            A JPEG (or WebP), or None where Frigate has no image of it.

        Raises:
            FailedError: Frigate does not answer, or fails.
        """
        found = None if over else self._request(event, _SNAPSHOT)
        return found or self._request(event, "thumbnail.jpg")

    def set_sub_label(self, event: str, label: str, score: float) -> bool:
        """Set the sub label of an object.

        Args:
            event: Its id.
            label: The first 100 characters are set.
            score: 0..1.

        Returns:
            Whether Frigate still knows the object.

        Raises:
            FailedError: Frigate does not answer, fails, or refuses it.
        """
        body = {"subLabel": label[:_LONGEST], "subLabelScore": min(1.0, max(1e-4, round(score, 4)))}  # 0 is refused
        return self._request(event, "sub_label", json.dumps(body).encode()) is not None

    def _request(self, event: str, what: str, body: bytes | None = None) -> bytes | None:
        """The body of an answer; None where Frigate does not know the object, or has no such image."""
        path = f"/api/events/{quote(event, safe='')}/{what}"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._session.open(path, body) as answer:
                    data: bytes = answer.read(_LARGEST + 1)
                if len(data) > _LARGEST:
                    raise FailedError(f"{self.address}: {what.partition('?')[0]} has more than {_LARGEST >> 20} MB")
                return data
            except urllib.error.HTTPError as error:
                with error:
                    trouble = f"status {error.code}"
                if error.code == 404:
                    return None
                if error.code < 500:
                    raise FailedError(
                        f"{self.address} refuses {what.partition('?')[0]}: {trouble}{_hint(error.code)}"
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                trouble = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt == _ATTEMPTS or self._stop.wait(backoff_delay(attempt, *PAUSES)):
                break
        raise FailedError(f"{self.address} does not answer: {trouble}")


def _hint(status: int) -> str:
    hints = {
        401: " (write USER:PASSWORD@ before the host, or take the port without a login, 5000 unless it was changed)",
        403: " (sub labels need a user with the role admin)",
    }
    return hints.get(status, "")
