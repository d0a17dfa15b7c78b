"""Views of the preview: the newest result of a source and task as JPEG, as JSON for its card, and with details."""

from __future__ import annotations

import io
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime._util.redact import redact
from attri.runtime.deliver.result import FrameResult, ResultKey, SourceHealth

_HISTORY = 120  # frames in the latency plot
_SIDE = 960  # pixels of the longer side of the JPEG
_TOP = 8  # labels with a score bar


@dataclass
class SourceView:
    """The newest result of a source and task, with its JPEG once a browser has asked for it.

    Attributes:
        result: The newest result.
        number: Number of results so far; a browser asks for the frame when it changes.
        latency: Milliseconds of preprocessing, vision and text of the last frames.
        encoded: Number and JPEG of the frame that was encoded last.
        lock: Held while a frame is encoded.
    """

    result: FrameResult
    number: int
    latency: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    encoded: tuple[int, bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def jpeg(view: SourceView, lock: threading.Lock) -> tuple[int, bytes]:
    """The newest frame as JPEG; it is encoded once for all browsers that ask meanwhile.

    Args:
        view: The source.
        lock: Held by whoever changes the view.

    Returns:
        Number of the frame, and the JPEG file.
    """
    with view.lock:
        with lock:
            result, number = view.result, view.number
        if view.encoded is None or view.encoded[0] != number:
            view.encoded = number, encode(result.image)
        return view.encoded


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A frame, uint8 [H, W, 3], as a JPEG of at most 960 pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return data.getvalue()


def card_json(
    key: ResultKey, found: tuple[SourceView, FrameResult, int] | None, health: SourceHealth | None
) -> dict[str, Any]:
    """What the card of a source and task, and the source's row in the table of sources, show.

    Args:
        key: Source and task.
        found: Its view, newest result and number of results; None before the first, or if it has no place on the page.
        health: Its health.
    """
    state: dict[str, Any] = {"source": key.origin, "number": 0, "state": "live", "detail": ""}
    if health is not None:
        state |= asdict(health)
    state.pop("tasks", None)
    if key.task is not None:
        state["task"] = key.task
    state["card"] = found is not None or not state.get("frames")
    if found is not None:
        _, result, number = found
        state |= {
            "number": number,
            "shown": result.source,
            "label": result.label,
            "score": round(result.score, 4),
            **({} if result.held is None else {"labels": [plain_text(label) for label in result.decided]}),
            "age_ms": round(result.age_ms, 1),
            "fps": round(result.fps, 1),
        }
    return {key: plain_text(value) if isinstance(value, str) else value for key, value in state.items()}


def detail_json(result: FrameResult, history: list[tuple[float, float, float]]) -> dict[str, Any]:
    """What the details of the selected source show: best labels, retrieved pool entries, latency of the last frames."""
    prediction = result.prediction
    retrieved = [
        [
            {"entry": entry, "attracts": [plain_text(name) for name in prediction.attracted(block, entry)]}
            for entry in row
        ]
        for block, row in enumerate(prediction.retrieved.tolist())
    ]
    return {
        "top": [[plain_text(label), round(score, 4)] for label, score in prediction.top(_TOP)],
        "labels": len(prediction.labels),
        "retrieved": retrieved,
        "nearest": [
            {"image": plain_text(each["image"]), "label": plain_text(each["label"]), "cosine": each["cosine"]}
            for each in prediction.nearest_json().get("nearest_images") or ()
        ],
        "cache": prediction.cache,
        "latency_ms": history,
    }


def plain_text(value: str) -> str:
    """`value` as valid Unicode without credentials: file names may not be UTF-8, messages may quote a URI."""
    return redact(value.encode(errors="replace").decode())
