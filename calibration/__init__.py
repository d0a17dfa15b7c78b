"""Calibration on real images: int8 activation ranges, score temperature and rejection threshold."""

from attri.calibration.activation_ranges import Samples, collect_samples, measure_ranges
from attri.calibration.confidence import (
    auroc,
    calibration_error,
    fit_temperature,
    logits_of,
    probabilities,
    threshold_accepting,
    threshold_rejecting,
)
from attri.calibration.images import find_calibration_images

__all__ = [
    "Samples",
    "auroc",
    "calibration_error",
    "collect_samples",
    "find_calibration_images",
    "fit_temperature",
    "logits_of",
    "measure_ranges",
    "probabilities",
    "threshold_accepting",
    "threshold_rejecting",
]
