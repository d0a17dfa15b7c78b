"""Whether a release on probation is as it should be, by what attri-run counted of its results."""

from __future__ import annotations

from dataclasses import dataclass

from attri.runtime.deliver.updates.exchange import NONE, LabelCounts, ReleaseCounts


@dataclass(frozen=True)
class Probation:
    """What a release has to keep to until it is committed.

    Attributes:
        seconds: that it has to run.
        max_rejected: percent of the decisions that may be none of the labels; None is any.
        max_shift: percent, bound on the total variation distance of the distribution of its labels to that of the
            release before, where 100 is no label in common; None is any.
        least: results that a distribution needs before these two bounds apply.
    """

    seconds: float = 60.0
    max_rejected: float | None = None
    max_shift: float | None = None
    least: int = 200

    def remark(self, results: LabelCounts) -> str:
        """What is to be said of a release that is committed after so many results: "" where the bounds applied."""
        bounded = self.max_rejected is not None or self.max_shift is not None
        if not bounded or results.results >= self.least:
            return ""
        return f"without its bounds: {results.results:.0f} results came on probation, they need {self.least}"


def results_of(counts: ReleaseCounts, release: str, prompt: str | None) -> LabelCounts:
    """What was counted of a release since it runs; nothing where attri-run has not noticed it yet."""
    return counts.now.get(prompt or "", LabelCounts()) if counts.runs == release else LabelCounts()


def find_trouble(
    counts: ReleaseCounts, release: str, prompt: str | None, before: str | None, probation: Probation
) -> str | None:
    """What speaks against a release on probation; None where nothing does.

    Args:
        counts: what attri-run has counted.
        release: name of the one on probation.
        prompt: sha256 of its prompt.
        before: that of the release before.
        probation: the bounds.
    """
    now, then = results_of(counts, release, prompt), counts.before.get(before or "", LabelCounts())
    if now.not_finite:
        return f"{now.not_finite} of its {now.results:.0f} results have a score that is no finite number"
    if now.results < probation.least:
        return None
    rejected, shift = 100 * now.share(NONE), 100 * now.distance(then)
    if probation.max_rejected is not None and rejected > probation.max_rejected:
        return (
            f"{rejected:.1f}% of its {now.results:.0f} results have no label ({then.share(NONE):.1%} before), the bound"
            f" is {probation.max_rejected:g}%"
        )
    if probation.max_shift is not None and then.results >= probation.least and shift > probation.max_shift:
        return (
            f"the distribution of its labels is {shift:.1f}% from the one before (total variation distance,"
            f" {now.results:.0f} and {then.results:.0f} results), the bound is {probation.max_shift:g}%"
        )
    return None
