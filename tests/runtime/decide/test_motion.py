"""Whether anything has changed: noise is no change, a small thing and slow light are."""

from __future__ import annotations

import numpy as np
import pytest

from attri.runtime.decide.motion import CELLS, POINTS, MotionGate, mean_grey

RANDOM = np.random.default_rng(0)
GROUND = RANDOM.integers(60, 200, (240, 320, 1)).repeat(3, -1).astype(np.uint8)


def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    return np.clip(image + RANDOM.normal(0, deviation, image.shape), 0, 255).astype(np.uint8)


def with_thing(image: np.ndarray, side: int = 40) -> np.ndarray:
    """A white square on one cell, a sixth of the height."""
    changed = image.copy()
    changed[200 : 200 + side, :side] = 255
    return changed


def test_the_first_is_due_and_the_same_again_is_not() -> None:
    gate = MotionGate(1.0)
    assert [gate.is_due(GROUND, clock, None) for clock in (0.0, 0.1, 0.2)] == [True, False, False]


def test_noise_is_no_change_and_a_small_thing_is() -> None:
    """A sensor in bad light: values deviate by 8 of 255; a cell averages 64 points of 3 colours, 0.23% are left."""
    gate = MotionGate(3.0)
    assert gate.is_due(noisy(GROUND, 8), 0.0, None)
    assert not any(gate.is_due(noisy(GROUND, 8), clock / 10, None) for clock in range(1, 20))
    assert gate.is_due(noisy(with_thing(GROUND), 8), 4.0, None)
    assert not gate.is_due(noisy(with_thing(GROUND), 8), 4.1, None)
    assert gate.is_due(noisy(GROUND, 8), 4.2, None)  # it has gone


def test_a_slow_change_adds_up_until_it_is_seen() -> None:
    """Dusk: a level darker with each frame, 0.39%."""
    gate, ground = MotionGate(3.0, max_age=1e6), np.full((60, 80, 3), 200, np.uint8)
    due = [clock for clock in range(30) if gate.is_due(ground - np.uint8(clock), clock, None)]
    assert due == [0, 8, 16, 24]


def test_a_prediction_holds_for_so_long_and_for_one_question() -> None:
    gate = MotionGate(1.0, max_age=5.0)
    clocks = [0.0, 4.9, 5.0, 9.9, 10.0]
    assert [gate.is_due(GROUND, clock, "cat") for clock in clocks] == [True, False, True, False, True]
    assert gate.is_due(GROUND, 10.1, "dog")
    assert gate.is_due(GROUND, 2.0, "dog")  # time ran backwards: a video begins again
    assert not gate.is_due(GROUND, 2.1, "dog")
    gate.forget()
    assert gate.is_due(GROUND, 2.2, "dog")


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64), (480, 640), (1080, 1920)])
def test_cells_are_means_of_points(size: tuple[int, int]) -> None:
    """Against a loop over the points."""
    image = RANDOM.integers(0, 256, (*size, 3)).astype(np.uint8)
    wanted = np.zeros((CELLS, CELLS))
    for row in range(POINTS):
        for column in range(POINTS):
            y, x = (
                round(float(np.linspace(0, side - 1, POINTS)[i])) for side, i in zip(size, (row, column), strict=True)
            )
            wanted[row * CELLS // POINTS, column * CELLS // POINTS] += image[y, x].mean() / 255
    np.testing.assert_allclose(mean_grey(image), wanted / (POINTS // CELLS) ** 2, rtol=0, atol=1e-6)  # float32
