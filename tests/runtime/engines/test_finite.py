"""Outputs that are not finite are an error that names the output, and never a score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attri.runtime import Classifier
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import EngineError
from attri.runtime.text.cache import TextCache


class Broken(OrtEngine):
    """Gives the outputs of its graph, one value of one of which is something else."""

    broken: tuple[int, float] | None = None

    def run(self, inputs):
        outputs = [np.array(output) for output in super().run(inputs)]
        if self.broken is not None:
            number, value = self.broken
            outputs[number].reshape(-1)[3] = value
        return outputs


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("graph", "number", "name"), [(VISION, 0, "image_features"), (VISION, 2, "scores"), (TEXT, 0, "text_features")]
)
def test_an_output_that_is_not_finite_is_named(
    bundle: Path, image_files: list[Path], graph: str, number: int, name: str, value: float
) -> None:
    opened = Bundle.open(bundle)
    engines = {each: Broken(opened.graph(each), "cpu") for each in (VISION, TEXT)}
    classifier = Classifier(opened, engines[VISION], engines[TEXT], ["cat", "dog"], TextCache(0))
    assert classifier(image_files[0]).label in ("cat", "dog")
    engines[graph].broken = number, value
    with pytest.raises(EngineError, match=f"^{name} has values that are not finite, on ONNX Runtime"):
        classifier(image_files[0])
