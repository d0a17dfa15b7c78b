"""95% intervals of shares and of their paired differences."""

from __future__ import annotations

import math

Z = 1.96  # standard errors on either side


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    share, z = right / count, Z
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half


def paired(gained: int, lost: int, count: int) -> tuple[float, float]:
    """95% interval of the difference of two shares of the same images, of which so many changed sides (Wald)."""
    difference = (gained - lost) / count
    half = Z * math.sqrt(gained + lost - (gained - lost) ** 2 / count) / count
    return difference - half, difference + half
