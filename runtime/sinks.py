"""What is said about a frame: a line for a person, or a JSON object for a program. Both on stdout."""

from __future__ import annotations

import json

from attri.runtime.classifier import Prediction
from attri.runtime.sources import Frame


def json_line(frame: Frame, prediction: Prediction, topk: int) -> str:
    """One object per frame; `label` is null where it was rejected."""
    return json.dumps(
        {
            "source": frame.source,
            "frame": frame.number,
            "time": round(frame.time, 6),
            "label": prediction.label,
            "score": round(prediction.score, 6),
            "top": [{"label": label, "score": round(score, 6)} for label, score in prediction.top(topk)],
            "retrieved": prediction.retrieved.tolist(),
            "cache": prediction.cache,
            "latency_ms": prediction.latency_ms,
        },
        ensure_ascii=False,
    )


def text_line(frame: Frame, prediction: Prediction, topk: int, video: bool) -> str:
    """Source, frame time in a video, and the best labels with their scores."""
    where = f"{frame.source} {frame.time:8.2f}s" if video else frame.source
    best = prediction.top(topk)
    if prediction.label is None:
        return f"{where}  (none of the labels)  best: {best[0][0]} {best[0][1]:.1%}"
    return f"{where}  " + "  ".join(f"{label} {score:.1%}" for label, score in best)
