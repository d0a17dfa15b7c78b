"""A collected image: what is known of it, as the JSON beside its JPEG has it."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.printable import json_text

SCHEMA = 1
Reason = Literal["unsure", "unknown", "flip", "novel", "control"]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True)
class Item:
    """A collected image, as it was when it was classified.

    Attributes:
        name: Of its files, without their endings.
        source: Of the result, credentials redacted; of an image in a folder its file.
        origin: The source as all its images share it, SOURCE/REGION where it has regions.
        frame: 0-based number of the frame.
        time: Seconds: the position in a video file, Unix time for everything else.
        collected: Unix time.
        reasons: Why it was collected, one or more.
        label: The decided label; None is none of the labels.
        score: Of the decided label, 0 to 1.
        top: The best labels of this frame alone with their scores, best first.
        margin: Best score minus the second; of independent labels the least distance of a score to its threshold.
        size: Width and height of the JPEG, pixels.
        sha256: Of the JPEG, in hexadecimal.
        base: sha256 of what the bundle is without its prompt, in hexadecimal; equal for bundles with an equal base.
        task: Name of the task; None where the source has one without a name.
        region: x, y, width and height in the source's frame; None is all of it.
        threshold: The rejection threshold that applied; None never rejects.
        prompt: sha256 of the learned prompt, in hexadecimal; None where nobody said.
        feature: The image's unit feature, float16 [D]; None where nobody computed it.
    """

    name: str
    source: str
    origin: str
    frame: int
    time: float
    collected: float
    reasons: tuple[Reason, ...]
    label: str | None
    score: float
    top: tuple[tuple[str, float], ...]
    margin: float
    size: tuple[int, int]
    sha256: str
    base: str
    task: str | None = None
    region: tuple[int, int, int, int] | None = None
    threshold: float | None = None
    prompt: str | None = None
    feature: NDArray[np.float16] | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> bytes:
        """The content of its file."""
        values = asdict(self)
        del values["name"]
        values["top"] = [{"label": label, "score": round(score, 6)} for label, score in self.top]
        values |= {"score": round(self.score, 6), "margin": round(self.margin, 6)}
        if self.feature is not None:
            values["feature"] = base64.b64encode(self.feature.astype("<f2").tobytes()).decode()
        return f"{json_text({'schema': SCHEMA} | values, indent=1)}\n".encode()

    @classmethod
    def parse(cls, name: str, data: bytes) -> Item:
        """Read the content of its file.

        Args:
            name: Of its files, without their endings.
            data: The content.

        Raises:
            ValueError: It is not what `to_json` writes.
        """
        try:
            values: dict[str, Any] = json.loads(data)
            if values["schema"] != SCHEMA:
                raise ValueError(f"its schema is {values['schema']}, this attri reads {SCHEMA}")
            known = {each.name: values[each.name] for each in fields(cls) if each.name != "name"}
            known["top"] = tuple((str(each["label"]), float(each["score"])) for each in known["top"])
            for key in ("reasons", "size", "region"):
                known[key] = None if known[key] is None else tuple(known[key])
            if known["feature"] is not None:
                known["feature"] = np.frombuffer(base64.b64decode(known["feature"]), "<f2").astype(np.float16)
            return cls(name=name, **known)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is not the record of a collected image ({error})") from error
