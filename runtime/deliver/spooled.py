"""What sinks that send events from a spool share: the spool, the sending thread, and one log line per outage."""

from __future__ import annotations

import logging
import threading

from attri.runtime.deliver.format import event_body
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.deliver.spool import Spool

_LOGGER = logging.getLogger("attri")


class SpooledSink:
    """Base class of sinks that send events: `write` puts them into the spool, a thread of the subclass sends them.

    Subclasses implement `_run`, which sends until `_stop` is set and waits on `_wake` for new events.

    Args:
        spool: Events that wait; closed by `close`.
        topk: Labels in the JSON of an event.
    """

    name = "spooled"
    lossless = True
    takes: SinkFilter = "changes"

    def __init__(self, spool: Spool, topk: int) -> None:
        self._spool, self._topk = spool, topk
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def pending(self) -> int:
        """Events that wait for delivery."""
        return len(self._spool)

    def write(self, result: FrameResult) -> None:
        """Put an event into the spool.

        Raises:
            SinkError: The disk does not take it.
        """
        self._spool.add(self._topic(result), event_body(result, self._topk))
        self._wake.set()

    def _topic(self, _result: FrameResult) -> str:
        """The topic under which the spool keeps this event."""
        return ""

    def _run(self) -> None:
        raise NotImplementedError

    def _stop_sending(self, seconds: float) -> None:
        """Ask the thread to end and wait for it; what was not sent stays in the spool for the next run."""
        self._stop.set()
        self._wake.set()
        self._thread.join(seconds)


class OutageLog:
    """Logs that the receiver cannot be reached: once per outage.

    Args:
        receiver: Name of the receiver, as it may be shown.
        note: What happens to the events meanwhile.
    """

    def __init__(self, receiver: str, note: str) -> None:
        self._receiver, self._note = receiver, note
        self._is_out = False

    def report(self, trouble: str) -> None:
        """Log what went wrong, unless this outage was logged already."""
        if not self._is_out:
            _LOGGER.warning("%s%s; %s", self._receiver, trouble, self._note)
        self._is_out = True

    def end(self) -> bool:
        """The receiver answers.

        Returns:
            Whether there was an outage.
        """
        was_out, self._is_out = self._is_out, False
        return was_out
