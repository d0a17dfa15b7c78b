"""An explanation to look at: the image, what speaks for its label, and what speaks for it rather than for another."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw

from attri.runtime._util.printable import printable
from attri.runtime.deliver.annotate import font_of
from attri.runtime.deliver.result import FrameResult
from attri.runtime.explain.explanation import Explanation
from attri.runtime.explain.heat_map import heat_map

_LONGER, _SHORTER = 480, 240  # pixels of a panel's longer side, at most, and of its shorter one, if that allows it
_TEXT, _BEHIND, _GAP = (255, 255, 255), (24, 24, 24), 6


def labels_to_explain(result: FrameResult) -> list[str]:
    """The decided label, or the best where there is none, and the best of the others, if there are any."""
    best = result.label or result.prediction.top(1)[0][0]
    others = [label for label, _ in result.prediction.top(2) if label != best]
    return [best, *others[:1]]


def panels_png(image: Image.Image, explanation: Explanation, *, stacked: bool = False) -> bytes:
    """Draw an explanation of one label or two as a PNG file.

    Args:
        image: RGB.
        explanation: Its first label is explained; if there is a second, it is also held against that.
        stacked: One panel below the other, for a narrow column; else side by side.
    """
    scale = _LONGER / max(image.size)
    if min(image.size) * scale > _SHORTER:
        scale = min(1.0, scale) if min(image.size) > _SHORTER else _SHORTER / min(image.size)
    shown = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    left, top, right, bottom = (edge * scale for edge in explanation.seen)
    seen = left, top, right, bottom
    label, *others = explanation.labels
    panels = [("the image", shown), (f"for {label}", heat_map(shown, explanation.of(label), seen))]
    panels += [
        (f"for {label}, not {other}", heat_map(shown, explanation.contrast(label, other), seen)) for other in others
    ]
    font = font_of(14)
    strip = 26
    right, down = (0, shown.height + strip + _GAP) if stacked else (shown.width + _GAP, 0)  # from panel to panel
    size = (shown.width + (len(panels) - 1) * right, shown.height + strip + (len(panels) - 1) * down)
    sheet = Image.new("RGB", size, _BEHIND)
    draw = ImageDraw.Draw(sheet)
    for number, (title, panel) in enumerate(panels):
        x, y = number * right, number * down
        sheet.paste(panel, (x, y + strip))
        draw.text((x + 4, y + 4), _fitting(printable(title), font, shown.width - 8), font=font, fill=_TEXT)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def explanation_json(explanation: Explanation, result: FrameResult) -> dict[str, Any]:
    """An explanation of a result as JSON values: of each label cosine, rest and patches, which add up.

    Where the prompt keeps them, the nearest training images too.
    """
    rows = zip(explanation.labels, explanation.cosines, explanation.rest, explanation.patches, strict=True)
    return {
        "seen": [round(edge, 2) for edge in explanation.seen],
        "explanations": [
            {
                "label": label,
                "cosine": round(float(cosine), 6),
                "rest": round(float(rest), 6),
                "patches": [[round(float(value), 6) for value in row] for row in patches],
            }
            for label, cosine, rest, patches in rows
        ],
        **result.prediction.nearest_json(),
    }


def _fitting(text: str, font: Any, room: int) -> str:
    """The text, shortened until it fits into so many pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"
