"""How far a device is with an update, on the disk: written to a sibling, flushed and renamed at every step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from attri.fleet.release import Release
from attri.runtime._util.atomic import write_file
from attri.runtime.errors import FailedError

SCHEMA = 1
Stage = Literal["fetched", "verified", "built", "checked", "trying", "committed", "refused", "rolled back"]


@dataclass(frozen=True)
class Update:
    """A release on its way.

    Attributes:
        release: what it is.
        stage: how far it has come.
        reason: why it was refused or rolled back.
        figures: what the check measured.
        starts: of what runs it, while it is on probation.
        time: of the last step, Unix time.
    """

    release: Release
    stage: Stage
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0
    time: float = field(default_factory=time.time)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.__dict__, "release": self.release.to_dict()}


@dataclass(frozen=True)
class State:
    """Everything that a device remembers.

    Attributes:
        sequences: the newest document of each channel that was seen, so that an older one is refused.
        current: what runs; None before the first update.
        previous: what ran before, complete, to go back to.
        update: the last one, also when it has ended.
        refused: reasons by the digest of a release, so that none is tried twice.
    """

    sequences: Mapping[str, int] = field(default_factory=dict)
    current: Release | None = None
    previous: Release | None = None
    update: Update | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def candidate(self) -> Update | None:
        """The update that is under way, and does not run yet."""
        ended = self.update is None or self.update.stage in ("trying", "committed", "refused", "rolled back")
        return None if ended else self.update

    @property
    def trying(self) -> Update | None:
        """The update that runs on probation."""
        return self.update if self.update is not None and self.update.stage == "trying" else None

    def report(self) -> dict[str, Any]:
        """What others are told of it."""
        update = self.update
        return {
            "runs": self.current and self.current.name,
            "before": self.previous and self.previous.name,
            "update": update
            and {
                "release": update.release.name,
                "state": update.stage,
                "reason": update.reason or None,
                "figures": dict(update.figures),
                "time": update.time,
            },
        }

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            OSError: it cannot be written; what was there counts.
        """
        raw = {**asdict(self), "schema": SCHEMA}
        write_file(path, (json.dumps(raw, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> State:
        """Read it; of a new device it is empty.

        Raises:
            FailedError: it is damaged, or of a newer attri.
        """
        try:
            raw = json.loads(path.read_text())
            if raw.pop("schema") != SCHEMA:
                raise FailedError(f"{path} is of another attri: update attri on this machine")
            for name in ("current", "previous"):
                raw[name] = raw[name] and Release.from_dict(raw[name])
            if raw["update"]:
                raw["update"] = Update(**raw["update"] | {"release": Release.from_dict(raw["update"]["release"])})
                if raw["update"].stage not in get_args(Stage):
                    raise ValueError("unknown stage")
            return cls(**raw)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise FailedError(f"{path}: {error.strerror or error}") from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise FailedError(f"{path} is damaged ({error}): remove it, and pull again") from error
