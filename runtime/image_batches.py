"""Images in batches: threads decode and preprocess the next batch while the engines classify this one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import ImageError

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8]
Preprocess = Callable[[ImageInput], NDArray[np.float32]]  # gives pixels [3, S, S]
Decoded = tuple[NDArray[np.float32], float]  # pixels [3, S, S], and the seconds that they took
T = TypeVar("T")
D = TypeVar("D")
DECODE_THREADS = 2  # Pillow lets other threads run while it decodes and resizes


def is_single(images: ImageInput | Iterable[ImageInput]) -> TypeGuard[ImageInput]:
    """Whether this is one image, and no iterable of images nor a batch uint8 [B, H, W, 3]."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, (str, Path, bytes, Image.Image))


def decode_each(preprocess: Preprocess, images: Sequence[ImageInput]) -> list[Decoded | ImageError]:
    """Decode and preprocess images, several at a time; of one that cannot be read, the error."""
    decode = partial(_decode_or_error, preprocess)
    if len(images) == 1:  # without the threads
        return [decode(images[0])]
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return list(pool.map(decode, images))


def read_batches(
    preprocess: Preprocess, images: ImageInput | Iterable[ImageInput], size: int
) -> Iterator[list[Decoded]]:
    """Decode and preprocess an image, or any iterable of images `size` at a time.

    Raises:
        ImageError: An image cannot be read.
    """
    if is_single(images):  # without the threads that read ahead
        yield [_decode(preprocess, images)]
        return
    yield from _read_ahead(partial(_decode, preprocess), cast("Iterable[ImageInput]", images), size)


def read_rows(
    preprocess: Preprocess, rows: Iterable[T], size: int, read: Callable[[T], ImageInput], threads: int = DECODE_THREADS
) -> Iterator[list[Decoded | ImageError]]:
    """Fetch, decode and preprocess rows `size` at a time; of one that cannot be read, the error.

    Args:
        preprocess: That of the bundle.
        rows: What `read` takes.
        size: Rows of a batch.
        read: Gives the image of a row, or raises ImageError; called in threads.
        threads: How many.
    """
    yield from _read_ahead(lambda row: _decode_or_error(preprocess, row, read), rows, size, threads)


def map_ahead(work: Callable[[T], D], items: Iterable[T], threads: int) -> Iterator[D]:
    """Like `map`, with so many items in work at the same time; results keep the order of the items."""
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[D]] = deque()
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) == threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _read_ahead(
    decode: Callable[[T], D], rows: Iterable[T], size: int, threads: int = DECODE_THREADS
) -> Iterator[list[D]]:
    """Decode in threads, a batch ahead of what is taken."""
    left = iter(rows)
    with ThreadPoolExecutor(threads) as pool:

        def start() -> list[Future[D]]:
            return [pool.submit(decode, row) for row in islice(left, size)]

        ahead = start()
        while ahead:
            current, ahead = ahead, start()
            yield [each.result() for each in current]


def _decode(preprocess: Preprocess, image: ImageInput) -> Decoded:
    started = time.perf_counter()
    return preprocess(image), time.perf_counter() - started


def _decode_or_error(
    preprocess: Preprocess, row: Any, read: Callable[[Any], ImageInput] = lambda row: row
) -> Decoded | ImageError:
    try:
        return _decode(preprocess, read(row))
    except ImageError as error:
        return error
