"""What speaks against a release on probation, by counts of its results."""

from __future__ import annotations

import pytest

from attri.fleet.device.probation import Probation, find_trouble, results_of
from attri.runtime.deliver.updates.exchange import NONE, LabelCounts, ReleaseCounts

BOUNDS = Probation(max_rejected=20.0, max_shift=30.0, least=10)


def counted(**labels: int) -> LabelCounts:
    return LabelCounts(sum(labels.values()), 0, {NONE if name == "none" else name: n for name, n in labels.items()})


def trouble(now: LabelCounts, before: LabelCounts, bounds: Probation = BOUNDS, runs: str = "2-b") -> str | None:
    counts = ReleaseCounts(runs, {"new": now, "task": counted(none=99)}, {"old": before, "task": counted(none=99)})
    return find_trouble(counts, "2-b", "new", "old", bounds)


def test_what_is_as_before_is_no_trouble() -> None:
    assert trouble(counted(cat=6, dog=4), counted(cat=55, dog=45)) is None


def test_labels_that_are_others_than_before() -> None:
    said = trouble(counted(cat=1, dog=9), counted(cat=60, dog=40))
    assert said == (
        "the distribution of its labels is 50.0% from the one before (total variation distance, 10 and 100 results),"
        " the bound is 30%"
    )
    assert trouble(counted(cat=1, dog=9), counted(cat=60, dog=40), Probation(max_shift=50.0, least=10)) is None
    assert trouble(counted(cat=1, dog=9), counted(cat=60, dog=40), Probation(least=10)) is None  # not asked for


def test_results_without_a_label() -> None:
    said = trouble(counted(cat=7, none=3), counted(cat=10))
    assert said == "30.0% of its 10 results have no label (0.0% before), the bound is 20%"
    assert trouble(counted(cat=8, none=2), counted(cat=10)) is None


@pytest.mark.parametrize(("now", "before"), [(9, 100), (10, 9)])
def test_too_few_results_say_nothing(now: int, before: int) -> None:
    assert trouble(counted(dog=now), counted(cat=before)) is None


def test_a_score_that_is_no_number_is_trouble_at_once() -> None:
    said = trouble(LabelCounts(3, 2, {"cat": 3}), counted(cat=10), Probation())
    assert said == "2 of its 3 results have a score that is no finite number"


def test_counts_of_another_release_are_not_its_own() -> None:
    assert trouble(counted(dog=100), counted(cat=100), runs="1-a") is None
    counts = ReleaseCounts("2-b", {"old": counted(dog=100)}, {"old": counted(cat=100)})  # not taken over yet
    assert find_trouble(counts, "2-b", "new", "old", BOUNDS) is None
    assert results_of(counts, "2-b", "new") == LabelCounts()
    assert find_trouble(counts, "2-b", None, None, BOUNDS) is None  # files that are no prompts


def test_what_is_said_of_a_release_that_is_committed_without_its_bounds() -> None:
    assert BOUNDS.remark(counted(cat=10)) == ""
    assert Probation().remark(LabelCounts()) == ""
    assert BOUNDS.remark(counted(cat=4)) == "without its bounds: 4 results came on probation, they need 10"
