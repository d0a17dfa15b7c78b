"""Which results are worth a look, and why."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from support.results import make_result

from attri.runtime.deliver.collect.choose import Choice, ChoiceRule, Chooser, margin
from attri.runtime.deliver.collect.seen import SeenImages
from attri.runtime.deliver.result import FrameResult, ResultKey

OFF = ChoiceRule(margin=0, flip=0, novelty=0, control=0)


def chosen(rule: ChoiceRule, results: Iterable[FrameResult], seen: SeenImages | None = None) -> list[Choice]:
    chooser = Chooser(rule, seen or SeenImages(), random.Random(0))
    return [choice for result in results for choice in chooser(result)]


def repeats(choices: Iterable[Choice], seen: SeenImages) -> list[bool]:
    return list(map(Chooser(OFF, seen).is_repeat, choices))


def test_a_best_label_that_is_hardly_ahead_is_unsure() -> None:
    rule = dataclasses.replace(OFF, margin=0.2)
    (choice,) = chosen(rule, [make_result(score=0.9), make_result(frame=1, score=0.45)])
    assert choice.reasons == ("unsure",)
    assert choice.result.frame == 1
    assert choice.margin == pytest.approx(0.45 - 0.55 / 2)


def test_one_label_alone_is_never_unsure() -> None:
    prediction = dataclasses.replace(
        make_result().prediction, labels=("bird",), probabilities=np.ones(1, np.float32), label="bird"
    )
    assert margin(prediction) == 1


def test_the_margin_of_independent_labels_is_to_their_thresholds() -> None:
    scores, thresholds = np.array([0.9, 0.45, 0.1], np.float32), np.array([0.5, 0.5, 0.5], np.float32)
    prediction = dataclasses.replace(make_result().prediction, probabilities=scores, thresholds=thresholds)
    assert margin(prediction) == pytest.approx(0.05)


def test_none_of_the_labels_is_unknown() -> None:
    sure = make_result(score=0.9)
    smoothed = dataclasses.replace(sure, label=None)  # what is decided may be none while this frame is not
    assert [each.reasons for each in chosen(OFF, [sure, smoothed])] == [("unknown",)]
    independent = dataclasses.replace(smoothed, held=())  # that none of them holds says nothing
    assert chosen(OFF, [independent]) == []


def decisions(labels: str, step: float = 0.5, **others: Any) -> list[FrameResult]:
    names = {"a": "red apple", "b": "bird", "-": None}
    return [
        make_result(frame=i, label=names[each], clock=i * step, time=0.0, **others) for i, each in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("labels", "frames"),
    [
        ("aaabbaaa", [3]),
        ("aaabbbbb", []),  # it stays
        ("aaabbbbbbbbbbaaa", []),  # for 5 seconds, so it was no flip
        ("aabcaa".replace("c", "-"), []),  # by way of a third: neither has changed back
        ("aabaabaa", [2, 3, 5]),  # each of them was between two changes
        ("aa-aa", [2]),
        ("baa", []),
    ],
)
def test_a_flip_is_the_first_frame_of_what_did_not_last(labels: str, frames: list[int]) -> None:
    found = chosen(dataclasses.replace(OFF, flip=3.0), decisions(labels))
    assert [each.result.frame for each in found if each.reasons == ("flip",)] == frames


def test_flips_of_regions_and_tasks_are_their_own() -> None:
    rule = dataclasses.replace(OFF, flip=3.0)
    left = decisions("aabb", source="door/left")
    right = decisions("bbaa", source="door/right")
    mixed = [each for pair in zip(left, right, strict=True) for each in pair]
    assert chosen(rule, mixed) == []
    tasks = [dataclasses.replace(each, task=str(i % 2)) for i, each in enumerate(decisions("abababab"))]
    assert chosen(rule, tasks) == []


def test_images_of_a_folder_do_not_flip_and_a_loop_is_no_flip() -> None:
    rule = dataclasses.replace(OFF, flip=3.0)
    assert chosen(rule, decisions("aba", source="a.png")) == []
    first, second, third = decisions("aba")
    assert chosen(rule, [first, second, dataclasses.replace(third, clock=0.0)]) == []


def test_independent_labels_flip_as_a_set() -> None:
    a, b = ("red apple", 0.9), ("bird", 0.8)
    held = [(a,), (a, b), (b, a), (a,)]  # which is first is no change
    results = [dataclasses.replace(each, held=h) for each, h in zip(decisions("aaaa"), held, strict=True)]
    assert [each.result.frame for each in chosen(dataclasses.replace(OFF, flip=3.0), results)] == [1]


def test_novel_is_far_from_all_that_were_collected() -> None:
    rule, seen = dataclasses.replace(OFF, novelty=0.2), SeenImages()
    chooser = Chooser(rule, seen)
    for feature, novel in (([1, 0, 0], True), ([0.9, 0.1, 0], False), ([0, 1, 0], True), ([0, 0, 1], True)):
        found = list(chooser(make_result(feature=feature)))
        assert [each.reasons for each in found] == [("novel",)] * novel, feature
        for each in found:
            seen.add(each.result.prediction.image_feature, each.result.key)
    assert list(chooser(make_result())) == []  # without a feature nobody knows


def test_what_is_near_to_an_image_of_the_same_task_is_a_repeat() -> None:
    seen = SeenImages()
    rule = dataclasses.replace(OFF, margin=0.2)
    unsure = make_result(score=0.4, feature=[1, 0.01, 0], task="fill")
    seen.add(np.array([1, 0, 0], np.float32), ResultKey("camera0", "fill"))
    others = [dataclasses.replace(unsure, task="defects"), dataclasses.replace(unsure, origin="camera1")]
    assert repeats(chosen(rule, [unsure, *others], seen), seen) == [True, False, False]


def test_the_control_is_one_in_n_whatever_it_shows() -> None:
    rule = dataclasses.replace(OFF, control=50)
    seen = SeenImages()
    seen.add(np.array([1, 0], np.float32), ResultKey("camera0"))
    results = (make_result(frame=i, feature=[1, 0], unchanged=i % 2 == 0) for i in range(5000))
    found = chosen(rule, results, seen)
    assert Counter(each.reasons for each in found) == {("control",): len(found)}
    assert 70 < len(found) < 130  # 100, and three standard deviations of 10
    assert not any(repeats(found, seen))


def test_a_frame_that_was_not_classified_is_no_news() -> None:
    every = ChoiceRule(control=0)
    assert chosen(every, [make_result(score=0.4, feature=[1, 0], unchanged=True)]) == []


def test_seen_images_are_the_last_ones() -> None:
    seen = SeenImages(limit=3)
    key = ResultKey("camera0")
    for axis in range(4):
        seen.add(np.eye(4, dtype=np.float32)[axis], key)
    distances = [round(seen.distance(feature), 6) for feature in np.eye(4, dtype=np.float32)]
    assert distances == [1, 0, 0, 0]
    seen.add(np.ones(3, np.float32), key)  # of another backbone
    assert seen.distance(np.ones(3, np.float32)) == float("inf")


def test_the_distance_is_that_of_the_nearest() -> None:
    random_ = np.random.default_rng(0)
    features = random_.normal(size=(300, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    seen = SeenImages()
    for feature in features[:-1]:
        seen.add(feature, ResultKey("camera0"))
    literal = min(1 - float(feature @ features[-1]) for feature in features[:-1])
    assert seen.distance(features[-1]) == pytest.approx(literal, abs=1e-6)  # float32
