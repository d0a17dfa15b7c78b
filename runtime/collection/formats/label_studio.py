"""Label Studio: all images as tasks, with what the model said as predictions and what people said as annotations.

OUTPUT/tasks.json          to be imported
OUTPUT/config.xml          the labelling interface, with the labels as choices
OUTPUT/images/NAME.jpg     for a Label Studio whose local files are served from OUTPUT

Its exports are read, "JSON" and "JSON-MIN". An annotation without a choice says none of the labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import quoteattr

from attri.runtime._util.printable import json_text
from attri.runtime._util.wording import format_utc
from attri.runtime.collection.formats.base import Answers, LabelledImage, answers_of, name_in
from attri.runtime.errors import UsageError

_IMAGE, _CHOICES = "image", "label"  # names of the interface's two parts
_URL = "/data/local-files/?d=images/"


def write_tasks(images: Sequence[LabelledImage], output: Path) -> None:
    """Write all images, labelled or not.

    Raises:
        OSError: The disk does not take it.
    """
    output.mkdir()
    for image in images:
        image.copy_to(output / "images" / image.jpeg.name)
    (output / "tasks.json").write_text(json_text([_task(each) for each in images], indent=1) + "\n", encoding="utf-8")
    (output / "config.xml").write_text(_interface(images), encoding="utf-8")


def _task(image: LabelledImage) -> dict[str, Any]:
    item = image.item
    data = {"image": f"{_URL}{quote(image.jpeg.name)}", "name": item.name, "source": item.source}
    data |= {"task": item.task or "", "reasons": ", ".join(item.reasons), "collected": format_utc(item.collected)}
    task: dict[str, Any] = {"data": data}
    if item.label is not None:
        said = {"model_version": f"attri {(item.prompt or '')[:12]}".strip(), "score": round(item.score, 6)}
        task["predictions"] = [said | {"result": _result(item.label)}]
    if image.answered:
        task["annotations"] = [{"result": _result(image.label)}]
    return task


def _result(label: str | None) -> list[dict[str, Any]]:
    if label is None:
        return []
    return [{"from_name": _CHOICES, "to_name": _IMAGE, "type": "choices", "value": {"choices": [label]}}]


def _interface(images: Sequence[LabelledImage]) -> str:
    known = (label for image in images for label in (image.label, *(label for label, _ in image.item.top)))
    labels = dict.fromkeys(label for label in known if label is not None)
    choices = "".join(f"\n    <Choice value={quoteattr(label)}/>" for label in labels)
    image = f'<Image name="{_IMAGE}" value="$image"/>'
    first = f'<Choices name="{_CHOICES}" toName="{_IMAGE}" choice="single" showInLine="true">'
    return f"<View>\n  {image}\n  {first}{choices}\n  </Choices>\n</View>\n"


def read_tasks(path: Path) -> Answers:
    """Read what people said; tasks without an annotation, and annotations that were cancelled, say nothing.

    Raises:
        UsageError: It is no such export, or an image has two labels.
        OSError: It cannot be read.
    """
    if path.is_dir():
        path = path / "tasks.json"
    try:
        tasks = json.loads(path.read_bytes())
        if not isinstance(tasks, list):
            raise TypeError("it is not a list of tasks")
        return answers_of((pair for task in tasks for pair in _answers(task)), path)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is no export of Label Studio in the format JSON or JSON-MIN ({error})") from error


def _answers(task: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    if "data" not in task:  # JSON-MIN
        if _CHOICES in task:
            yield _name(task), _one(task[_CHOICES])
        return
    for annotation in task.get("annotations") or []:
        if not annotation.get("was_cancelled"):
            chosen = [each["value"]["choices"] for each in annotation["result"] if each["type"] == "choices"]
            yield _name(task["data"]), _one([label for labels in chosen for label in labels])


def _name(data: dict[str, Any]) -> str:
    if data.get("name"):
        return str(data["name"])
    url = urlsplit(str(data["image"]))
    return name_in(parse_qs(url.query).get("d", [url.path])[0])


def _one(choices: Any) -> str | None:
    """The one choice of an annotation; None where there is none."""
    if isinstance(choices, dict):
        choices = choices["choices"]
    labels = [choices] if isinstance(choices, str) else list(choices)
    if len(labels) > 1:
        raise TypeError(f"an image has the labels {', '.join(map(str, labels))}: leave one")
    return str(labels[0]) if labels else None
