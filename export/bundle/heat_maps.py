"""Heat maps for a report: what in a few images speaks for their best label, and for it and not the second best."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from attri.calibration.images import evenly
from attri.export.parity.images import ParityImages
from attri.export.parity.outputs import open_unfinished
from attri.runtime.bundle import EXPLAIN, Bundle
from attri.runtime.deliver.explain.panels import panels_png
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.explain.explanation import Explanation, divide_cosines
from attri.runtime.images import load_image

__all__ = ["heat_maps", "jpeg_text"]

SHOWN = 4  # images


def heat_maps(bundle: Bundle, images: ParityImages) -> list[dict[str, Any]]:
    """Explain some images of the parity check, evenly over them, with the bundle's default labels.

    Args:
        bundle: has the graph of explanations; it may be unfinished.
        images: of the parity check.

    Returns:
        Of each image its "row" among them, the best "label", and "data", a JPEG in base64.
    """
    classifier, engine = open_unfinished(bundle), OrtEngine(bundle.file(EXPLAIN), "cpu")
    found = []
    for row in evenly(list(range(len(images.files))), SHOWN):
        pixels, image = images.pixels[row : row + 1], load_image(images.files[row]).convert("RGB")
        features, retrieved = classifier.encode_image(pixels)
        (text,) = classifier.encode_text(retrieved)  # [C, D]
        best = np.argsort(-(text @ features[0]), kind="stable")[:2].tolist()
        patches, rest = engine.run({"pixels": pixels})
        explanation = Explanation(
            tuple(classifier.labels[each] for each in best),
            *divide_cosines(text[best], patches[0], rest[0]),
            bundle.preprocess().seen(image.size),
        )
        with Image.open(io.BytesIO(panels_png(image, explanation))) as panels:
            found.append({"row": row, "label": explanation.labels[0], "data": jpeg_text(panels)})
    return found


def jpeg_text(image: Image.Image) -> str:
    """An image as a JPEG file in base64."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return base64.b64encode(stream.getvalue()).decode()
