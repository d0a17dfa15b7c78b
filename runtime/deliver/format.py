"""Results as text: JSON objects, lines for a person, bodies of events, and names of files."""

from __future__ import annotations

import re
import uuid
from typing import Any

from attri.runtime._util.printable import json_text, printable
from attri.runtime._util.wording import format_utc
from attri.runtime.deliver.result import FrameResult
from attri.runtime.prediction import labels_json

NO_LABEL = "(none of the labels)"


def json_object(result: FrameResult, topk: int, why: bool = False) -> dict[str, Any]:
    """The fields of `--json` that README lists, in its order; results of live sources have four more.

    A frame that was not classified, because nothing had changed, has `unchanged`.

    Args:
        result: Of one frame and task.
        topk: How many of the best labels.
        why: Add what is known of the retrieved pool entries, and the nearest training images.
    """
    found: dict[str, Any] = {"source": result.source}
    if result.task is not None:
        found["task"] = result.task
    found |= {"frame": result.frame, "time": round(result.time, 6)}
    found |= result.prediction.to_dict(topk, why)
    found |= {"label": result.label, "score": round(result.score, 6)}  # as decided, not of this frame alone
    if result.unchanged:
        found["unchanged"] = True
    if result.held is not None:
        found["labels"] = labels_json(result.held)
    if result.live:
        live = {"age_ms": round(result.age_ms, 1), "fps": round(result.fps, 2), "dropped": result.dropped}
        found |= {"changed": result.changed, **live}
    return found


def json_line(result: FrameResult, topk: int, why: bool = False) -> str:
    """One result as a JSON object on one line; `label` is null where the frame shows none of the labels."""
    return json_text(json_object(result, topk, why))


def event_body(result: FrameResult, topk: int) -> bytes:
    """One event as JSON. It may be delivered twice; its unique `id` tells a receiver so."""
    body = {"id": uuid.uuid4().hex} | json_object(result, topk)
    return json_text(body).encode()


def title(result: FrameResult) -> str:
    """Source and task, safe to print."""
    return printable(result.source if result.task is None else f"{result.source} {result.task}")


def text_line(result: FrameResult, topk: int) -> str:
    """One result as a line that is safe to print: source, task, time, and the best labels with their scores.

    The time is the position in a video and the clock of everything that is not an image file. The decided label comes
    first. Where smoothing or a minimum duration decided for another label than the frame's own best, the frame's own
    labels follow in brackets. Of independent labels all that hold are there, and no others.
    """
    where = title(result)
    if result.kind == "video":
        where = f"{where} {result.time:8.2f}s"
    elif not result.still:
        where = f"{format_utc(result.time)} {where}"
    best = result.prediction.top(topk)
    if result.label is None:
        return f"{where}  {NO_LABEL}  best: {printable(best[0][0])} {best[0][1]:.1%}"
    scores = "  ".join(f"{printable(label)} {score:.1%}" for label, score in result.held or best)
    if result.held or best[0][0] == result.label:
        return f"{where}  {scores}"
    return f"{where}  {printable(result.label)} {result.score:.1%}  [{scores}]"


def label_text(result: FrameResult, nothing: str = NO_LABEL) -> str:
    """The decided label, or all that hold with commas between; `nothing` where there is none."""
    return ", ".join(result.decided) or nothing


def file_name(text: str) -> str:
    """`text` as part of a file name: letters and digits of any script, everything else becomes a dash.

    Only the last 80 bytes are kept, because long paths differ at their ends.
    """
    plain = re.sub(r"[^\w.-]+", "-", text.encode(errors="replace").decode()).strip("-.")
    return plain.encode()[-80:].decode(errors="ignore").strip("-.") or "none"
