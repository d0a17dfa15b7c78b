"""Images in batches: threads decode and preprocess the next batch while the engines classify this one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.preprocess import Preprocess

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8]
Decoded = tuple[NDArray[np.float32], float]  # pixels [3, S, S], and the seconds that they took
DECODE_THREADS = 2  # Pillow lets other threads run while it decodes and resizes


def is_single(images: ImageInput | Iterable[ImageInput]) -> TypeGuard[ImageInput]:
    """Whether this is one image, and no iterable of images nor a batch uint8 [B, H, W, 3]."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, (str, Path, bytes, Image.Image))


def read_batches(
    preprocess: Preprocess, images: ImageInput | Iterable[ImageInput], size: int
) -> Iterator[list[Decoded]]:
    """Decode and preprocess an image, or any iterable of images `size` at a time.

    Raises:
        ImageError: An image cannot be read.
    """

    def decode(image: ImageInput) -> Decoded:
        started = time.perf_counter()
        return preprocess(image), time.perf_counter() - started

    if is_single(images):  # without the threads that read ahead
        yield [decode(images)]
        return
    left = iter(cast("Iterable[ImageInput]", images))
    with ThreadPoolExecutor(DECODE_THREADS) as pool:

        def read() -> list[Future[Decoded]]:
            return [pool.submit(decode, image) for image in islice(left, size)]

        ahead = read()
        while ahead:
            current, ahead = ahead, read()
            yield [each.result() for each in current]
