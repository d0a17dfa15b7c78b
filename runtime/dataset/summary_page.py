"""The HTML of a summary: one page without scripts and links."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from attri.runtime._util.atomic import write_file
from attri.runtime._util.printable import printable
from attri.runtime._util.wording import plural
from attri.runtime.dataset.summary import BINS, Place, Shown, Summary, TaskSummary
from attri.runtime.errors import SinkError

_LABELS, _ERRORS = 25, 50  # that are listed
_NONE = "none of the labels"


def write_page(path: Path, title: str, made: str, summary: Summary) -> None:
    """Write the page.

    Args:
        path: Of the file.
        title: What was classified.
        made: With what, in words.
        summary: What is shown.

    Raises:
        SinkError: It cannot be written.
    """
    rows, failed = sum(summary.rows.values()), sum(summary.kinds.values())
    counted = f"{plural(rows, 'row')}, {plural(failed, 'error')} ({failed / max(1, rows):.1%})"
    sections = [_task(name, task, summary.thumbnails) for name, task in summary.tasks.items()]
    template = Template(Path(__file__).with_name("summary.html").read_text(encoding="utf-8"))
    words = {"title": _text(title), "counted": _text(counted), "made": _text(made)}
    page = template.substitute(words, sections="\n".join([*sections, _errors(summary)]))
    try:
        write_file(path, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise SinkError(f"{path} cannot be written: {error.strerror or error}") from error


def _task(name: str, task: TaskSummary, thumbnails: Mapping[Place, str]) -> str:
    title = f"<h2>{_text(name)}</h2>" if name else ""
    least, most = task.least.ranked(), task.most.ranked()
    return f"""{title}
<div class="panels">
<section class="panel"><h3>Labels</h3>{_labels(task)}</section>
<section class="panel"><h3>Scores</h3>{_scores(task.bins)}</section>
</div>
<h2>Least certain</h2><section class="panel">{_images(least, thumbnails)}</section>
<h2>Most certain</h2><section class="panel">{_images(most, thumbnails)}</section>"""


def _labels(task: TaskSummary) -> str:
    rows, total = [], sum(task.labels.values())
    ranked = task.labels.most_common()
    for label, count in ranked[:_LABELS]:
        shown = _NONE if label is None else label
        rows.append(
            _bar(shown, count, count / ranked[0][1], [f"{count / total:.1%}", f"{task.totals[label] / count:.2f}"])
        )
    if more := ranked[_LABELS:]:
        count = sum(number for _, number in more)
        rows.append(_bar(f"{len(more)} more", count, count / max(count, ranked[0][1]), [f"{count / total:.1%}", ""]))
    head = "".join(f'<th class="number">{word}</th>' for word in ("rows", "share", "mean score"))
    return f"<table><tr><th>label</th><th></th>{head}</tr>{''.join(rows)}</table>"


def _bar(name: str, count: int, length: float, others: Sequence[str]) -> str:
    numbers = "".join(f'<td class="number">{word}</td>' for word in (f"{count}", *others))
    return f'<tr><td>{_text(name)}</td><td class="bar"><span style="width:{length:.1%}"></span></td>{numbers}</tr>'


def _scores(bins: Sequence[int]) -> str:
    highest = max(1, *bins)
    heights = [
        (f"{number / BINS:.2f} to {(number + 1) / BINS:.2f}: {count}", count) for number, count in enumerate(bins)
    ]
    columns = "".join(f'<span style="height:{count / highest:.1%}" title="{said}"></span>' for said, count in heights)
    axis = '<div class="axis"><span>0</span><span>0.5</span><span>1</span></div>'
    said = f"<p>Rows by the score of their best label; the highest column has {highest}.</p>"
    return f'<div class="columns">{columns}</div>{axis}{said}'


def _images(rows: Sequence[Shown], thumbnails: Mapping[Place, str]) -> str:
    items = []
    for row in rows:
        url = thumbnails.get(row.place)
        image = f'<img src="{url}" alt="">' if url else '<div class="none"></div>'
        label = _text(_NONE if row.label is None else row.label)
        items.append(f"<li>{image}<b>{label}</b> {row.score:.1%}<br><small>{_text(row.name)}</small></li>")
    return f'<ul class="grid">{"".join(items)}</ul>' if items else "<p>There is none.</p>"


def _errors(summary: Summary) -> str:
    if not summary.kinds:
        return '<h2>Errors</h2><section class="panel"><p>There are none.</p></section>'
    rows = "".join(
        f'<tr><td class="number">{count}</td><td class="long bad">{_text(kind)}</td>'
        f'<td class="long">{_text(summary.examples[kind])}</td></tr>'
        for kind, count in summary.kinds.most_common(_ERRORS)
    )
    head = '<tr><th class="number">rows</th><th>kind</th><th>the first of them</th></tr>'
    return f'<h2>Errors</h2><section class="panel"><table>{head}{rows}</table></section>'


def _text(text: str) -> str:
    return html.escape(printable(text))
