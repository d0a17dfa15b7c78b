"""Training images of a prompt: their features, kept in its file so that those nearest to a frame can be named.

They are two tensors behind all others (`attri-export --keep-features`), and are read when they are first asked for:
training_features  float16 [I, D], unit rows: image features by the vision graph of the base
training_images    uint8, JSON: of each image its class, and its name in the training data
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import BundleError
from attri.runtime.prompt_file.tensor_file import digest_of, pack, read

_FEATURES, _NAMES = "training_features", "training_images"
NOT_KEPT = "the prompt keeps no features of its training images: export it again with attri-export --keep-features"


def is_kept(tensor: str) -> bool:
    """Whether a tensor of a prompt file is of its training images."""
    return tensor in (_FEATURES, _NAMES)


@dataclass(frozen=True)
class NearImage:
    """A training image that is near to another image.

    Attributes:
        image: Its name in the training data.
        label: Its class.
        cosine: Of both image features.
    """

    image: str
    label: str
    cosine: float


class TrainingImages:
    """Features of the images that a prompt was trained on, with their classes and names.

    Args:
        facts: What the prompt's facts say of them: "images", their number, "bytes", and "sha256".
        reopen: Opens the file that holds them.
        name: What messages call it.

    Attributes:
        facts: As given.
    """

    def __init__(self, facts: Mapping[str, Any], reopen: Callable[[], BinaryIO], name: str) -> None:
        self.facts, self._reopen, self._name = dict(facts), reopen, name

    @classmethod
    def of(cls, features: NDArray[np.floating[Any]], images: Sequence[tuple[str, str]]) -> TrainingImages:
        """Keep unit features [I, D] of images, of each its class and name."""
        names = json.dumps([list(image) for image in images], ensure_ascii=False, separators=(",", ":"))
        text = np.frombuffer(names.encode(errors="replace"), np.uint8)
        tensors: dict[str, NDArray[Any]] = {_FEATURES: features.astype(np.float16), _NAMES: text}
        data = pack(tensors, {})
        size = sum(tensor.nbytes for tensor in tensors.values())
        facts = {"images": len(images), "bytes": size, "sha256": digest_of("", tensors)}
        return cls(facts, lambda: io.BytesIO(data), "the prompt")

    def __len__(self) -> int:
        return int(self.facts["images"])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read what the file holds of them.

        Raises:
            BundleError: It has been replaced since the prompt was read, or is damaged.
        """
        try:
            with self._reopen() as file:
                tensors, _ = read(file, is_kept)
        except (OSError, ValueError) as error:
            raise BundleError(f"the training images in {self._name} cannot be read: {error}") from error
        if digest_of("", tensors) != self.facts["sha256"]:
            raise BundleError(f"{self._name} was replaced or damaged since it was read: start again, or copy it again")
        return tensors

    def nearest(self, feature: NDArray[np.float32], count: int = 3) -> list[NearImage]:
        """The images whose features are nearest to another, nearest first; equal ones in their order in the file.

        Args:
            feature: Unit image feature [D].
            count: How many.

        Raises:
            BundleError: As of `tensors`, the first time.
        """
        features, images = self._loaded
        cosines = features @ feature
        rows = np.argsort(-cosines, kind="stable")[:count].tolist()
        return [NearImage(images[row][1], images[row][0], float(cosines[row])) for row in rows]

    @cached_property
    def _loaded(self) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
        """Features [I, D], and class and name of each image."""
        tensors = self.tensors()
        try:
            images = [(str(label), str(name)) for label, name in json.loads(tensors[_NAMES].tobytes())]
            features = tensors[_FEATURES].astype(np.float32)  # NumPy has no fast product of float16
        except (LookupError, ValueError, TypeError) as error:
            raise BundleError(f"the training images in {self._name} cannot be used: export it again") from error
        if features.ndim != 2 or not len(features) == len(images) == len(self):
            raise BundleError(f"the training images in {self._name} cannot be used: export it again")
        return features, images
