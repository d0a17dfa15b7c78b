"""What the preview shows of a source: its newest result as JSON for a card, with details, and as JPEG."""

from __future__ import annotations

import io
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from attri.runtime._util.redact import redact
from attri.runtime.deliver.result import FrameResult, SourceHealth

_HISTORY = 120  # frames in the plot of latency
_SIDE = 960  # pixels of the longer side that is sent
_TOP = 8  # labels with a bar


@dataclass
class Latest:
    """The newest result of a source, and its JPEG once somebody wanted it."""

    result: FrameResult
    number: int  # of results so far, from 1: a browser asks for a frame when it changes
    latency: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    jpeg: tuple[int, bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def encoded(latest: Latest, lock: threading.Lock) -> tuple[int, bytes]:
    """The number and the JPEG of the newest frame; who asks while it is made waits for the same one."""
    with latest.lock:
        with lock:
            result, number = latest.result, latest.number
        if latest.jpeg is None or latest.jpeg[0] != number:
            image = Image.fromarray(result.image)
            image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
            data = io.BytesIO()
            image.save(data, "JPEG", quality=80)
            latest.jpeg = number, data.getvalue()
        return latest.jpeg


def summary(name: str, found: tuple[Latest, FrameResult, int] | None, health: SourceHealth | None) -> dict[str, Any]:
    """What a card and a row of the table of sources show.

    Pictures come under the names of their files, and all share a card: the folder that they came from has none.
    """
    state: dict[str, Any] = {"source": name, "number": 0, "state": "live", "detail": ""}
    if health is not None:
        state |= asdict(health)
    state["card"] = found is not None or not state.get("frames")
    if found is not None:
        _, result, number = found
        state |= {
            "number": number,
            "shown": result.source,
            "label": result.label,
            "score": round(result.score, 4),
            "age_ms": round(result.age_ms, 1),
            "fps": round(result.fps, 1),
        }
    return {key: plain_text(value) if isinstance(value, str) else value for key, value in state.items()}


def detail(result: FrameResult, history: list[tuple[float, float, float]]) -> dict[str, Any]:
    prediction = result.prediction
    return {
        "top": [[plain_text(label), round(score, 4)] for label, score in prediction.top(_TOP)],
        "labels": len(prediction.labels),
        "retrieved": prediction.retrieved.tolist(),
        "cache": prediction.cache,
        "latency_ms": history,
    }


def plain_text(value: str) -> str:
    """Names of files need not be text; JSON has to be. What a source says of itself may quote its URI."""
    return redact(value.encode(errors="replace").decode())
