"""The Frigate sink: the label of an object that Frigate detected becomes its sub label."""

from __future__ import annotations

import threading

from attri.runtime.capture.frigate.api import FrigateApi
from attri.runtime.capture.frigate.capture import object_of
from attri.runtime.capture.frigate.session import session_at
from attri.runtime.deliver.format import label_text
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import FailedError, SinkError


class FrigateSink:
    """Sets sub labels. An object that shows none of the labels keeps the one that it has."""

    name = "frigate"
    lossless = True
    takes: SinkFilter = "every_frame"

    def __init__(self) -> None:
        self._stop = threading.Event()

    def write(self, result: FrameResult) -> None:
        """Set the sub label of the object that a result is about.

        Raises:
            SinkError: Frigate does not answer, or refuses.
        """
        if result.kind != "frigate" or not result.decided:
            return
        host, event = object_of(result.source)
        try:
            FrigateApi(session_at(host), self._stop).set_sub_label(event, label_text(result), result.score)
        except FailedError as error:
            raise SinkError(f"a sub label is lost: {error}") from error

    def close(self) -> None:
        """Wait for nothing more."""
        self._stop.set()
