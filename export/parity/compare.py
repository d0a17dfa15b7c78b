"""Parity check: compare a bundle with the PyTorch model stage by stage, on real images, with the runtime itself.

The reference reads the same files through the same preprocessing. Text features are compared at the pool entries that
the reference retrieves, so that one flipped near-tie neither hides nor fakes an error elsewhere; flips are counted
apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attri.export.parity.gates import Gates
from attri.export.parity.outputs import Outputs, open_unfinished, run_bundle, run_model
from attri.export.parity.report import ParityReport, Stage
from attri.runtime.bundle import Bundle
from attri.runtime.engines.agreement import cosine, same_top1
from attri.runtime.engines.verify import ParityStage
from attri.train.model import AttriPrompt

__all__ = ["compare", "compare_outputs"]


def compare(model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32], gates: Gates) -> ParityReport:
    """Run the model and a bundle, which may be unfinished, on images [I, 3, S, S], and compare their outputs."""
    classifier = open_unfinished(bundle)
    reference = run_model(model, pixels, list(classifier.labels), classifier.template, classifier.prompt)
    return compare_outputs(reference, run_bundle(classifier, pixels, reference.retrieved), gates)


def compare_outputs(reference: Outputs, ours: Outputs, gates: Gates) -> ParityReport:
    """Compare outputs on the same images.

    Logits have no gate of their own: the gates of the features bound them, and top-1 is the purpose of logits.
    """
    equal = (reference.retrieved == ours.retrieved).reshape(len(ours.retrieved), -1)  # [I, L M]
    logits = np.abs(reference.scale * reference.cosines - ours.scale * ours.cosines)  # [I, C]
    text = cosine(reference.text, ours.text)  # [I, C]
    image = cosine(reference.features, ours.features)  # [I]
    stages = [
        Stage.of(ParityStage.IMAGE_FEATURES, "cosine", image, gates.cosine, "worst"),
        Stage.of(ParityStage.RETRIEVED, "share", equal, gates.retrieved, "mean"),
        Stage.of(ParityStage.TEXT_FEATURES, "cosine", text, gates.cosine, "worst"),
        Stage.of(ParityStage.LOGITS, "difference", logits, None, "worst"),
        Stage.of(ParityStage.TOP1, "share", same_top1(reference.cosines, ours.cosines), gates.top1, "mean"),
    ]
    return ParityReport(stages, *text.shape)
