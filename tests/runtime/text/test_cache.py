"""The cache of text features: what stays, what goes, and that the count of bytes is true."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.text.cache import TextCache

ROW = 8 + 12  # bytes of an id and of its feature


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def features(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None].repeat(3, 1)


def add(cache: TextCache, entries: bytes, *numbers: int) -> None:
    cache.put(entries, ids(*numbers), features(*numbers))


def knows(cache: TextCache, entries: bytes, *numbers: int) -> list[int]:
    """Those of the numbers that are known; their features must be theirs."""
    found, kept = cache.get(entries, ids(*numbers))
    known = [number for number, is_known in zip(numbers, found, strict=True) if is_known]
    if known:
        np.testing.assert_array_equal(kept, features(*known))
    return known


def test_what_was_added_is_what_is_found() -> None:
    cache, labels, kept = TextCache(), ids(1, 5), features(1, 5)
    cache.put(b"a", labels, kept)
    found, same = cache.get(b"a", labels)
    assert found.all()
    assert same is kept
    assert knows(cache, b"b", 1, 5) == []


def test_labels_that_stay_are_still_known() -> None:
    cache = TextCache()
    add(cache, b"a", 2, 4, 6)
    assert knows(cache, b"a", 1, 2, 6, 9) == [2, 6]
    add(cache, b"a", 1, 9)
    assert knows(cache, b"a", 1, 2, 6, 9) == [1, 2, 6, 9]
    assert cache.nbytes == 5 * ROW


@given(
    st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=6), st.sets(st.integers(0, 40), min_size=1)
)
def test_any_additions(sets: list[set[int]], wanted: set[int]) -> None:
    cache = TextCache()
    for numbers in sets:
        add(cache, b"a", *sorted(numbers))
    assert knows(cache, b"a", *sorted(wanted)) == sorted(wanted & set().union(*sets))
    assert cache.nbytes == ROW * len(set().union(*sets))


def test_the_least_recently_used_goes_first() -> None:
    cache = TextCache(3 * ROW)
    for entries in (b"a", b"b", b"c"):
        add(cache, entries, 1)
    knows(cache, b"a", 1)
    add(cache, b"d", 1)
    assert [entries for entries in (b"a", b"b", b"c", b"d") if knows(cache, entries, 1)] == [b"a", b"c", b"d"]


@pytest.mark.parametrize(("sizes", "kept"), [([1, 1, 1], 3), ([1, 1, 2], 2), ([1, 1, 3], 1), ([3], 1)])
def test_the_bound_is_in_bytes(sizes: list[int], kept: int) -> None:
    cache = TextCache(3 * ROW)
    for number, size in enumerate(sizes):
        add(cache, bytes([number]), *range(size))
    assert len(cache) == kept
    assert cache.nbytes == ROW * sum(sizes[-kept:])


def test_one_too_large_is_not_kept_and_drives_nothing_out() -> None:
    cache = TextCache(3 * ROW)
    add(cache, b"a", 1)
    add(cache, b"b", 1, 2, 3, 4)
    assert (len(cache), cache.nbytes) == (1, ROW)
    assert knows(cache, b"b", 1) == []


def test_labels_that_pile_up_make_way_for_new_ones() -> None:
    cache = TextCache(3 * ROW)
    add(cache, b"a", 1, 2)
    add(cache, b"a", 3, 4)
    assert knows(cache, b"a", 1, 2, 3, 4) == [3, 4]
    assert cache.nbytes == 2 * ROW


def test_no_bytes_no_cache() -> None:
    cache = TextCache(0)
    add(cache, b"a", 1)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_hits_and_misses_are_counted() -> None:
    cache = TextCache()
    for wanted in ((1,), (1,), (1, 2), (2,)):
        if len(knows(cache, b"a", *wanted)) < len(wanted):
            add(cache, b"a", *wanted)
    assert (cache.hits, cache.misses) == (2, 2)


def test_many_threads_keep_the_counts_right() -> None:
    cache, threads, rounds = TextCache(10 * ROW), 8, 1000

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 20, rounds):
            cache.get(bytes([number]), ids(1))
            add(cache, bytes([number]), 1)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so often that without the lock the counts go wrong
    try:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(usual)
    assert cache.hits + cache.misses == threads * rounds
    assert cache.nbytes == ROW * len(cache) == 10 * ROW
