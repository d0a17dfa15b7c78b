"""Report of a parity check: one stage per comparison, with its worst and mean figure, its gate and a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.export.parity.gates import Gates
from attri.runtime._util.wording import plural
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import ParityError

__all__ = ["ParityReport", "Stage"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One comparison over the parity images.

    Attributes:
        id: what was compared.
        kind: "cosine" or "share", which a gate bounds from below, or "difference", which it bounds from above.
        worst: of all figures.
        mean: of all figures.
        gate: the bound; None where other stages decide.
        figure: "worst" or "mean", whichever the gate is for.
        values: the worst figure of each image ("share": its mean), [I].
        usual: the default gate; it differs from `gate` where that was set by hand.
        arithmetic: "U8S8" or "S8S8" of an int8 bundle, else None.
    """

    id: ParityStage
    kind: str
    worst: float
    mean: float
    gate: float | None
    figure: str
    values: NDArray[np.float64] = field(repr=False)
    usual: float | None = None
    arithmetic: str | None = None

    @property
    def name(self) -> str:
        """What was compared, in words."""
        return f"{self.id.heading}, {self.arithmetic}" if self.arithmetic else self.id.heading

    @classmethod
    def of(cls, id: ParityStage, kind: str, found: NDArray[Any], gate: float | None, figure: str) -> Stage:
        """Summarize one or more figures of each image, [I, ...]."""
        each = found.reshape(len(found), -1).astype(np.float64)
        values: NDArray[np.float64] = getattr(each, {"cosine": "min", "share": "mean", "difference": "max"}[kind])(1)
        worst = values.max() if kind == "difference" else values.min()
        return cls(id, kind, float(worst), float(each.mean()), gate, figure, values)

    @property
    def held(self) -> bool:
        """Whether the gate held; NaN never does."""
        if self.gate is None:
            return True
        value = getattr(self, self.figure)
        return bool(value <= self.gate if self.kind == "difference" else value >= self.gate)  # NaN compares false

    @property
    def by_hand(self) -> bool:
        """Whether the gate is not the default one."""
        return self.usual is not None and self.gate != self.usual

    @property
    def distances(self) -> NDArray[np.float64]:
        """Distance of each image from the reference, 0 where both are equal, [I]."""
        return self.values if self.kind == "difference" else np.maximum(1 - self.values, 0)

    @property
    def worst_image(self) -> int:
        """Index of the image that is furthest from the reference."""
        return int(np.nan_to_num(self.distances, nan=np.inf).argmax())

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values, without those of each image."""
        names = ("id", "arithmetic", "name", "kind", "worst", "mean", "gate", "usual", "figure", "held")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, eq=False)
class ParityReport:
    """All stages of a parity check.

    Attributes:
        stages: in the order of the computation.
        images: how many were compared.
        labels: how many were compared.
        requested: how many images were named; more than `images` where some could not be read.
    """

    stages: list[Stage]
    images: int
    labels: int
    requested: int | None = None

    @property
    def missed(self) -> Stage | None:
        """The first stage whose gate did not hold."""
        return next((stage for stage in self.stages if not stage.held), None)

    def with_default_gates(self, default: Gates) -> ParityReport:
        """Note the default gates beside those that were used, so that one set by hand is shown as such."""
        of = {ParityStage.RETRIEVED: default.retrieved, ParityStage.TOP1: default.top1}
        of |= dict.fromkeys((ParityStage.IMAGE_FEATURES, ParityStage.TEXT_FEATURES), default.cosine)
        stages = [replace(each, usual=of.get(each.id, each.gate)) for each in self.stages]
        return replace(self, stages=stages)

    def check(self, explain: Callable[[Stage], str] = lambda stage: "") -> None:
        """Require that all gates held.

        Args:
            explain: gives words for the message, about the stage that missed.

        Raises:
            ParityError: names the first stage whose gate did not hold.
        """
        stage = self.missed
        if stage is not None:
            raise ParityError(
                f"the bundle does not agree with the PyTorch model: {stage.name} is {getattr(stage, stage.figure):.9f},"
                f" the gate is {stage.gate}{explain(stage)}; nothing was written"
            )

    def to_dict(self) -> dict[str, Any]:
        """The report as the manifest keeps it."""
        stages = [stage.summary() for stage in self.stages]
        return {"images": self.images, "requested": self.requested, "labels": self.labels, "stages": stages}

    @property
    def compared(self) -> str:
        """How many images and labels were compared, in words."""
        missing = self.requested is not None and self.requested > self.images
        of = f" (only {self.images} of {self.requested} could be read)" if missing else ""
        return f"{plural(self.images, 'image')}{of}, {plural(self.labels, 'label')}"

    def table(self) -> str:
        """The stages as a table for a terminal."""
        hand = ", gates set by hand" if any(stage.by_hand for stage in self.stages) else ""
        rows = [f"{'parity':<24}{'worst':>12}{'mean':>12}{'gate':>12}  {self.compared}{hand}"]
        for stage in self.stages:
            gate = "none" if stage.gate is None else f"{stage.figure} {stage.gate:g}"
            held = "" if stage.gate is None else "held" if stage.held else "MISSED"
            held += f", usually {stage.usual:g}" if stage.by_hand else ""
            rows.append(f"{stage.name:<24}{stage.worst:>12.7f}{stage.mean:>12.7f}{gate:>18}  {held}".rstrip())
        return "\n".join(rows)
