"""What pool entries have come to stand for: the classes whose training images retrieve them more than others do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

MOST = 3  # classes of an entry
LIFT = 1.5  # from which on a class counts as attracted


def attracted_classes(usage: Tensor, classes: list[str]) -> list[list[list[dict[str, Any]]]]:
    """List the classes that each pool entry attracts, the strongest first.

    The lift of a class is its share of an entry's retrievals, where every class counts the same, over the share that it
    would have if all classes retrieved the entry alike. Which classes are listed is our choice: up to three, from a
    lift of 1.5 on.

    Args:
        usage: of `usage_by_class` [C, L, N].
        classes: C names.

    Returns:
        For each of L blocks and N entries, rows of "name" and "lift"; none for an entry that nothing retrieves.
    """
    counted = int((usage.sum((1, 2)) > 0).sum())  # classes without an image retrieve nothing
    lifts = counted * usage / usage.sum(0).clamp_min(1e-12)  # [C, L, N]
    values, order = lifts.sort(dim=0, descending=True, stable=True)
    blocks, size = usage.shape[1:]
    return [
        [
            [
                {"name": classes[int(order[rank, block, entry])], "lift": round(float(values[rank, block, entry]), 2)}
                for rank in range(min(MOST, len(classes)))
                if values[rank, block, entry] >= LIFT
            ]
            for entry in range(size)
        ]
        for block in range(blocks)
    ]


def with_former_names(
    found: list[list[list[dict[str, Any]]]], before: list[list[list[str]]], known: list[str]
) -> list[list[list[dict[str, Any]]]]:
    """Name the entries of a prompt that training started at: keys stay, and so do the known classes that they attract.

    Args:
        found: what entries attract of the added images, as of `attracted_classes`.
        before: names of the classes that they attracted before, by block and entry.
        known: classes from before; of them the added images say less than the names do.

    Returns:
        Rows as of `attracted_classes`: new classes first, then those from before, without "lift".
    """
    return [
        [
            ([row for row in rows if row["name"] not in known] + [{"name": name} for name in names])[:MOST]
            for rows, names in zip(block, former, strict=True)
        ]
        for block, former in zip(found, before, strict=True)
    ]
