"""The size of batches by an engine of a + b n ms on a clock of its own."""

from __future__ import annotations

import pytest

from attri.runtime.engines.batch_size import BatchSize, measure_batch_size


class ModelledEngine:
    """Takes a + b n seconds for n images, and four times as long for the first run of a size."""

    def __init__(self, a: float, b: float) -> None:
        self.a, self.b, self.now = a, b, 0.0
        self.seen: set[int] = set()

    def __call__(self, size: int) -> None:
        run = self.a + self.b * size
        self.now += run if size in self.seen else 4 * run
        self.seen.add(size)

    def measure(self, most: int | None = None) -> BatchSize:
        return measure_batch_size(self, most, lambda: self.now)


@pytest.mark.parametrize(
    ("a", "b", "size"),
    [
        (0.0, 0.010, 1),  # a processor that is busy with one: more images take as much longer
        (0.001, 0.080, 1),
        (0.003, 0.001, 16),  # 16: 842 images a second, 32: 914
        (0.010, 0.0001, 32),  # no more than that: each run is twice as long
    ],
)
def test_a_doubled_batch_has_to_bring_a_tenth_more(a: float, b: float, size: int) -> None:
    found = ModelledEngine(a, b).measure()
    assert found.size == size
    assert found.times[size] == pytest.approx(1000 * (a + b * size))


def test_no_more_than_the_engine_takes() -> None:
    engine = ModelledEngine(0.01, 0.0)
    assert engine.measure(4).size == 4
    assert engine.seen == {1, 2, 4}


def test_a_slow_model_is_not_measured_for_long() -> None:
    engine = ModelledEngine(0.4, 0.1)
    assert engine.measure().size == 1
    assert engine.seen == {1}


def test_it_says_what_it_measured() -> None:
    assert str(BatchSize(2, {1: 3.125, 2: 4.0})) == "batches of up to 2 (1 in 3.12 ms, 2 in 4 ms)"
