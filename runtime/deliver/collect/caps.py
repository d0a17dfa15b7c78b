"""How many images are collected at most: by the minute, the day, the size of the folder and the room on its disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from attri.runtime.deliver.result import ResultKey

Refusal = Literal["minute", "day", "folder", "disk", "repeat", "whole frame"]
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
_MINUTE, _DAY = 60.0, 86_400.0  # seconds
_CONTROL = 10  # one place in so many is kept for the control, or a busy hour would leave none for the rest of the day


@dataclass(frozen=True)
class Caps:
    """Largest numbers. Of those of the minute and the day, a tenth is for the control alone.

    Attributes:
        minute: Images of one region and task in any 60 seconds.
        day: Likewise in any 24 hours.
        megabytes: Millions of bytes of all files of the folder.
        free_megabytes: Millions of bytes that stay free on its disk.
    """

    minute: int = 4
    day: int = 200
    megabytes: float = 1000
    free_megabytes: float = 1000


@dataclass
class Account:
    """What was collected: the times of the last day, and the bytes of the folder.

    Attributes:
        times: Unix times by region and task.
        nbytes: Of all files of the folder.
    """

    times: dict[ResultKey, list[float]] = field(default_factory=dict)
    nbytes: int = 0

    def add(self, key: ResultKey, moment: float) -> None:
        """Note that an image was collected."""
        self.times.setdefault(key, []).append(moment)

    def forget_before(self, now: float) -> None:
        """Forget what is older than a day, however the clock was set meanwhile."""
        kept = ((key, _within(_DAY, now, times)) for key, times in self.times.items())
        self.times = {key: times for key, times in kept if times}

    def refusal(
        self, caps: Caps, key: ResultKey, now: float, free: int, *, nbytes: int = 0, control: bool = False
    ) -> Refusal | None:
        """Why no image may be added; None if it may.

        Args:
            caps: Largest numbers.
            key: Region and task.
            now: Unix time.
            free: Bytes that are free on the disk.
            nbytes: Of the image's files, as far as they are known.
            control: Whether it is one of the control.
        """
        times = self.times.get(key, [])
        if len(_within(_MINUTE, now, times)) >= _places(caps.minute, control):
            return "minute"
        if len(_within(_DAY, now, times)) >= _places(caps.day, control):
            return "day"
        if self.nbytes + nbytes > 1e6 * caps.megabytes:
            return "folder"
        return "disk" if free - nbytes < 1e6 * caps.free_megabytes else None


def _within(seconds: float, now: float, times: Iterable[float]) -> list[float]:
    """Those of these times that are as near to now as that, on either side: a clock that is set back makes no room."""
    return [each for each in times if abs(now - each) < seconds]


def _places(most: int, control: bool) -> int:
    """Places of a minute or day, or those that the control leaves to others."""
    return most if control or most < 2 else most - max(1, most // _CONTROL)
