"""Peak memory of a process that knows its labels and classifies some images; benchmarks/latency.py starts it.

    python -m benchmarks.footprint attri|literal|floor FOLDER THREADS

A file of its own, for PyTorch, which no device has, would take more memory than the differences that are measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from attri.runtime import Classifier
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.tokenizer import EOT
from benchmarks.common import peak_memory

PLAIN, LITERAL = "plain.onnx", "literal.onnx"  # graphs in FOLDER, beside the bundle's
LABELS, AT_ONCE, IMAGES = 100, 10, 20  # the literal text encoder takes so many labels at once, to be kind to it
KINDS = {
    "attri": "attri, labels changed at any time",
    "literal": f"static CLIP that keeps its text encoder, {AT_ONCE} labels at a time",
    "floor": "static CLIP without a text encoder, features from elsewhere",
}


def attri(folder: Path, threads: int) -> None:
    """Classify images with a bundle."""
    classifier = Classifier.load(folder, device="cpu", threads=threads)
    assert len(classifier.labels) == LABELS
    for value in range(IMAGES):
        classifier(np.full((224, 224, 3), 12 * value, np.uint8))


def static(folder: Path, threads: int, encode: bool) -> None:
    """Classify images with the plain vision graph and fixed text features; `encode` computes these first."""
    vision = OrtEngine(folder / PLAIN, "cpu", threads)
    pixels = np.zeros((1, 3, 224, 224), np.float32)
    texts = np.zeros((LABELS, vision.run({"pixels": pixels})[0].shape[1]), np.float32)
    if encode:
        text = OrtEngine(folder / LITERAL, "cpu", threads)
        ids = np.zeros((AT_ONCE, 77), np.int64)
        ids[:, 5] = EOT
        for first in range(0, LABELS, AT_ONCE):
            entries = np.zeros((1, 12, 2), np.int32)
            texts[first : first + AT_ONCE] = text.run({"ids": ids, "retrieved": entries})[0][0]
    for _ in range(IMAGES):
        texts @ vision.run({"pixels": pixels})[0][0]


if __name__ == "__main__":
    kind, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    attri(folder, threads) if kind == "attri" else static(folder, threads, kind == "literal")
    print(peak_memory())
