"""Which of two prompts to use: the rule of docs/howto/loop.md."""

from __future__ import annotations

import pytest
import torch

from attri.train.report.comparison import compare_prompts, says

CLASSES = ["apple", "pear", "mango"]  # of which the first prompt knew two


def compared(changes: dict[str, tuple[int, int]], images: int = 100, same: int = 40) -> dict:
    """Prompts that are right together on `same` images of each class, and of the others gain and lose so many."""
    before, after, targets = [], [], []
    for number, name in enumerate(CLASSES):
        gained, lost = changes.get(name, (0, 0))
        before += [True] * (same + lost) + [False] * (images - same - lost)
        after += [True] * same + [False] * lost + [True] * gained + [False] * (images - same - lost - gained)
        targets += [number] * images
    return compare_prompts(torch.tensor(before), torch.tensor(after), torch.tensor(targets), CLASSES, known=2)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"mango": (30, 0)}, "adopt"),
        ({"mango": (30, 0), "apple": (5, 7)}, "adopt"),  # two of two hundred known ones fewer: a point
        ({"mango": (30, 0), "apple": (5, 8)}, "collect"),  # better, and yet too much is forgotten
        ({"mango": (30, 0), "apple": (0, 20)}, "keep"),
        ({"pear": (0, 9)}, "keep"),
        ({"mango": (5, 0)}, "collect"),  # what a coin may do
        ({}, "collect"),
    ],
)
def test_the_verdict(changes, verdict):
    found = compared(changes)
    assert found["verdict"] == verdict
    assert says(found).startswith(verdict)


def test_each_class_and_part_has_its_counts_and_interval():
    found = compared({"mango": (30, 2), "apple": (0, 1)})
    counts = {"images": 300, "before": 123, "after": 150, "gained": 30, "lost": 3, "difference": 0.09}
    # 0.09 -+ 1.96 sqrt(33 - 27^2 / 300) / 300
    assert found["all"] == counts | {"interval": pytest.approx([0.0539, 0.1261], abs=1e-4)}
    assert [row["name"] for row in found["classes"] if row["new"]] == ["mango"]
    assert (found["known"]["images"], found["new"]["images"], found["new"]["difference"]) == (200, 100, 0.28)


def test_more_is_asked_of_classes_with_few_images_and_else_of_those_that_lost():
    assert compared({"pear": (1, 4)})["collect"] == ["pear"]
    few = compare_prompts(torch.ones(25) > 0, torch.ones(25) > 0, torch.tensor([0] * 20 + [2] * 5), CLASSES, known=2)
    assert few["collect"] == ["pear", "mango"]


def test_without_images_nothing_is_decided():
    none = torch.zeros(0, dtype=torch.bool)
    found = compare_prompts(none, none, none.long(), CLASSES, known=2)
    assert (found["verdict"], found["collect"]) == ("collect", CLASSES)
    assert says(found) == "collect more, first of apple, pear, mango: there are no images to compare the prompts on"
