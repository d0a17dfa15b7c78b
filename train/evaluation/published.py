"""Figures that papers report for ViT-B-16 CLIP with 16 shots and 3 seeds, in percent, to compare with.

CLIP, CoOp, CoCoOp, MaPLe and PromptSRC as tabled by Khattak et al., "Self-regulating Prompts", ICCV 2023 (PromptSRC),
averages over CoOp's 11 datasets. Of AttriPrompt's paper (Zhan et al., ACM MM 2025) the abstract alone is available to
us: "up to 7.37% improvement in the base-to-novel setting", over what it does not say.
"""

from __future__ import annotations

from attri.train.config import Protocol
from attri.train.evaluation.result_tables import table

Figures = dict[str, tuple[float, ...]]
BASE_TO_NOVEL: Figures = {
    "CLIP": (69.34, 74.22, 71.70),
    "CoOp": (82.69, 63.22, 71.66),
    "CoCoOp": (80.47, 71.69, 75.83),
    "MaPLe": (82.28, 75.14, 78.55),
    "PromptSRC": (84.26, 76.10, 79.97),
}
CROSS_DATASET: Figures = {  # ImageNet, and the average of the ten others
    "CoOp": (71.51, 63.88),
    "CoCoOp": (71.02, 65.74),
    "MaPLe": (70.72, 66.30),
    "PromptSRC": (71.27, 65.81),
}
DOMAINS: Figures = {  # ImageNet, V2, Sketch, A, R
    "CLIP": (66.73, 60.83, 46.15, 47.77, 73.96),
    "CoOp": (71.51, 64.20, 47.99, 49.71, 75.21),
    "CoCoOp": (71.02, 64.07, 48.75, 50.63, 76.18),
    "MaPLe": (70.72, 64.07, 49.15, 50.90, 76.98),
    "PromptSRC": (71.27, 64.35, 49.55, 50.90, 77.80),
}
_TABLES: dict[Protocol, tuple[Figures, list[str]]] = {
    "base-to-novel": (BASE_TO_NOVEL, ["base", "novel", "HM"]),
    "cross-dataset": (CROSS_DATASET, ["ImageNet (source)", "average of the ten others"]),
    "domain-generalization": (DOMAINS, ["ImageNet (source)", "V2", "Sketch", "A", "R"]),
}


def published(protocol: Protocol) -> list[str]:
    """A table of published figures, in a list; an empty one where there are none."""
    if protocol not in _TABLES:
        return []
    figures, columns = _TABLES[protocol]
    body = [[method, *(f"{value:.2f}" for value in row)] for method, row in figures.items()]
    about = "Published, ViT-B-16, 16 shots, 3 seeds, all datasets (Khattak et al. 2023; not measured here):"
    lines = f"{about}\n\n{table(['method', *columns], body)}"
    if protocol == "base-to-novel":
        lines += (
            "\nAttriPrompt's paper (Zhan et al. 2025) claims up to 7.37% improvement; no table of it is known to us.\n"
        )
    return [lines]
