"""The cache of text features: what stays, what goes, and that the count of bytes is true."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from attri.runtime.textcache import Key, TextCache


def key(number: int) -> Key:
    return (b"labels", bytes([number]))


def value(size: int, fill: int = 0) -> np.ndarray:
    return np.full(size, fill, np.uint8)


def test_what_was_put_is_what_comes_back() -> None:
    cache, features = TextCache(), value(8)
    cache.put(key(1), features)
    assert cache.get(key(1)) is features
    assert cache.get((b"other labels", key(1)[1])) is None


def test_the_least_recently_used_goes_first() -> None:
    cache = TextCache(30)
    for number in (1, 2, 3):
        cache.put(key(number), value(10))
    cache.get(key(1))
    cache.put(key(4), value(10))
    assert [number for number in (1, 2, 3, 4) if cache.get(key(number)) is not None] == [1, 3, 4]


@pytest.mark.parametrize(("sizes", "kept"), [([10, 10, 10], 3), ([10, 10, 11], 2), ([5, 5, 30], 1), ([30], 1)])
def test_the_bound_is_in_bytes(sizes: list[int], kept: int) -> None:
    cache = TextCache(30)
    for number, size in enumerate(sizes):
        cache.put(key(number), value(size))
    assert len(cache) == kept
    assert cache.bytes == sum(sizes[-kept:]) <= 30


def test_one_too_large_is_not_kept_and_drives_nothing_out() -> None:
    cache = TextCache(30)
    cache.put(key(1), value(10))
    cache.put(key(2), value(31))
    assert (len(cache), cache.bytes) == (1, 10)
    assert cache.get(key(2)) is None


def test_no_bytes_no_cache() -> None:
    cache = TextCache(0)
    cache.put(key(1), value(1))
    assert (len(cache), cache.bytes) == (0, 0)


@pytest.mark.parametrize(("size", "left"), [(4, 4), (20, 20), (31, 0)], ids=["smaller", "larger", "too large"])
def test_a_key_put_again_takes_the_new_value(size: int, left: int) -> None:
    cache = TextCache(30)
    cache.put(key(1), value(10, 1))
    cache.put(key(1), value(size, 2))
    assert cache.bytes == left
    found = cache.get(key(1))
    assert (found is None) if left == 0 else bool((found == 2).all())


def test_hits_and_misses_are_counted() -> None:
    cache = TextCache()
    for number in (1, 1, 2, 1):
        if cache.get(key(number)) is None:
            cache.put(key(number), value(1))
    assert (cache.hits, cache.misses) == (2, 2)


def test_many_threads_keep_the_counts_right() -> None:
    cache, threads, rounds = TextCache(100), 8, 3000

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 20, rounds):
            cache.get(key(number))
            cache.put(key(number), value(10))

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
    assert cache.bytes == 10 * len(cache) == 100
