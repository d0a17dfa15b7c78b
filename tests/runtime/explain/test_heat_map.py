"""Colours lie where the patches are, and outside of what the model saw there are none."""

from __future__ import annotations

import numpy as np
from PIL import Image

from attri.runtime.explain.heat_map import heat_map


def test_orange_speaks_for_and_blue_against() -> None:
    image = Image.new("RGB", (80, 40), (128, 128, 128))
    contributions = np.zeros((4, 4), np.float32)
    contributions[0, 0], contributions[3, 3] = 0.02, -0.02
    shown = np.asarray(heat_map(image, contributions, (20.0, 0.0, 60.0, 40.0))).astype(int)
    assert shown.shape == (40, 80, 3)
    red, _, blue = shown[2, 22]
    assert red > blue + 50
    red, _, blue = shown[37, 57]
    assert blue > red + 50
    assert shown[2, 57].tolist() == [128] * 3  # no contribution, no colour
    assert (shown[:, :20] == 43).all()  # not seen: a third as bright
    assert (shown[:, 60:] == 43).all()


def test_contributions_of_nothing_have_no_colour() -> None:
    image = Image.new("RGB", (8, 8), (90, 90, 90))
    shown = np.asarray(heat_map(image, np.zeros((2, 2), np.float32), (0, 0, 8, 8)))
    assert (shown == 90).all()
