"""A channel: what the devices that follow it are to run.

It is one signed JSON document of a few kB. All that a device fetches later is named there by its sha256, so that trust
in this document is trust in all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from attri.fleet.release import Release
from attri.runtime.errors import TrustError, UsageError

SCHEMA = 1
KEPT = 5  # releases in a channel; files of older ones leave the repository
MOST_BYTES = 1 << 20  # of the document
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")


@dataclass(frozen=True)
class Channel:
    """What is offered, and to whom.

    Attributes:
        name: like "stable".
        sequence: grows with each change, so that a device notices an older document.
        releases: the newest ones, oldest first.
        current: serial of the release that all devices get; None while there is none.
        candidate: serial of the release that only a wave of the devices gets; None while there is none.
        wave: their share in percent.
        revoked: serials of releases that no device is to run.
    """

    name: str
    sequence: int = 0
    releases: tuple[Release, ...] = ()
    current: int | None = None
    candidate: int | None = None
    wave: float = 0.0
    revoked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is no name of a channel: use lower case letters, digits and -")

    def find(self, serial: int | None) -> Release | None:
        """The release of a serial; None where there is none of it."""
        return next((each for each in self.releases if each.serial == serial), None)

    def offered(self, device: str) -> Release | None:
        """What a device is to run.

        Args:
            device: its name. Which devices are in a wave depends on it and on the serial, so that not always the same
                ones go first, and a device that is in a wave stays in a larger one.
        """
        in_wave = self.candidate is not None and _percentile(device, self.candidate) < self.wave
        return self.find(self.candidate if in_wave else self.current)

    def push(self, release: Release, wave: float | None) -> Channel:
        """Offer a release, whose serial is the next sequence.

        Args:
            release: takes the place of a candidate that is there.
            wave: share of the devices in percent; None are all, without a wave.
        """
        pushed = replace(self, sequence=self.sequence + 1, releases=(*self.releases, release))
        if wave is None:
            return replace(pushed, current=release.serial, candidate=None, wave=0.0)._trimmed()
        return replace(pushed, candidate=release.serial, wave=wave)._trimmed()

    def promote(self, wave: float | None) -> Channel:
        """Offer the candidate to more devices, or to all.

        Raises:
            UsageError: there is no candidate, or the wave would be smaller.
        """
        if self.candidate is None:
            raise UsageError(f"channel {self.name} has no candidate to promote: push one with --wave")
        if wave is not None and wave < self.wave:
            raise UsageError(f"the wave has {self.wave:g}% already: revoke takes a candidate back")
        change = {"wave": wave} if wave is not None else {"current": self.candidate, "candidate": None, "wave": 0.0}
        return replace(self, sequence=self.sequence + 1, **change)

    def revoke(self) -> Channel:
        """Take the candidate back; or, where there is none, the current release, for the one before.

        Raises:
            UsageError: there is nothing to take back.
        """
        serial = self.candidate if self.candidate is not None else self.current
        if serial is None:
            raise UsageError(f"channel {self.name} offers nothing that could be revoked")
        revoked = (*self.revoked, serial)
        change: dict[str, Any] = {"revoked": revoked, "candidate": None, "wave": 0.0}
        if self.candidate is None:
            before = [each.serial for each in self.releases if each.serial < serial and each.serial not in revoked]
            change["current"] = max(before, default=None)
        return replace(self, sequence=self.sequence + 1, **change)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.__dict__, "releases": [each.to_dict() for each in self.releases]}

    def to_bytes(self) -> bytes:
        """The document."""
        return (json.dumps(self.to_dict() | {"schema": SCHEMA}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> Channel:
        """Read the document.

        Raises:
            TrustError: it cannot be used, whoever signed it.
        """
        try:
            raw = json.loads(data)
            if raw.pop("schema") != SCHEMA:
                raise TrustError("the channel has another schema than this attri reads: update attri on this machine")
            releases = tuple(Release.from_dict(each) for each in raw.pop("releases"))
            channel = cls(**raw | {"releases": releases, "revoked": tuple(raw["revoked"])})
            if type(channel.sequence) is not int or not 0 <= float(channel.wave) <= 100:
                raise ValueError("unusable sequence or wave")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise TrustError(f"the channel is signed, but cannot be used ({error}): push again") from error
        return channel

    def _trimmed(self) -> Channel:
        """Without releases that nobody needs any more."""
        needed = {self.current, self.candidate}
        kept = [each for each in self.releases if each.serial in needed or each in self.releases[-KEPT:]]
        return replace(self, releases=tuple(kept))


def _percentile(device: str, serial: int) -> float:
    """Where a device stands among all for a release: 0 to 100, evenly."""
    digest = hashlib.sha256(f"{serial} {device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / (1 << 64) * 100
