"""The events that were published and not yet acknowledged."""

from __future__ import annotations

from collections import deque


class PublishWindow:
    """Events on their way to the broker, oldest first, with a bound on their number.

    `acknowledge` may be called from paho's thread, everything else from one other thread.

    Args:
        size: Events on their way at a time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._sent: deque[tuple[int, int]] = deque()  # (packet id, message id), in order
        self._answers: deque[int] = deque()  # packet ids that were acknowledged and not yet looked at
        self._acknowledged: set[int] = set()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def room(self) -> int:
        """How many more may be sent now."""
        return self._size - len(self._sent)

    def add(self, packet: int, message: int) -> None:
        """Note that the message of the spool was published in this packet."""
        self._sent.append((packet, message))

    def acknowledge(self, packet: int) -> None:
        """Note that the broker has taken a packet, an event or another one."""
        self._answers.append(packet)

    def settle(self) -> tuple[set[int], int | None]:
        """Take in the acknowledgements.

        Returns:
            Packets that were acknowledged since the last call, and the message up to which the broker has all events;
            None if there is no new one.
        """
        new: set[int] = set()
        while self._answers:
            new.add(self._answers.popleft())
        self._acknowledged |= new
        last = None
        while self._sent and self._sent[0][0] in self._acknowledged:
            packet, last = self._sent.popleft()
            self._acknowledged.remove(packet)
        self._acknowledged &= {packet for packet, _ in self._sent}  # other packets than events
        return new, last
