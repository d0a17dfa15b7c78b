"""report.html: complete, self-contained, and unmoved by whatever a folder may be called."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from attri.runtime.errors import FailedError
from attri.train import pocket
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit
from attri.train.model.backbone import load_backbone
from attri.train.report import report
from attri.train.report.plots import draw_confusion, draw_curves, draw_usage
from attri.train.report.report import class_accuracy, most_confused, write_report

VOID = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "🍎 & co", "תפוח אדום", "{{ 7 * 7 }}"]


class Page(HTMLParser):
    """A parsed page; refuses tags that do not close as they were opened."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.images, self.open, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.text += " " if tag in ("td", "th") else ""
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""

    @property
    def words(self):
        return " ".join(self.text.split())


def read(folder):
    """The page, after what must hold for every report."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert not {"link", "iframe", "a", "base", "object"} & set(page.tags)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("href", "srcset"), (tag, value)
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        else:
            assert "//" not in (value or ""), (tag, name, value)
    for image in page.images:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2], validate=True))) as png:
            png.load()
        assert len(image["alt"]) > 5
        assert 100 < int(image["width"]) < 1500
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """results and history of a short real run, and their figures."""
    folder = tmp_path_factory.mktemp("run")
    few = read_data(pocket.IMAGES, shots=2).only([0, 1, 2])
    few = dataclasses.replace(few, val=few.val[::4], test=few.test[::4])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        path = fit(
            few, load_backbone(), PromptConfig(), TrainConfig(epochs=2, augmentations=1, shots=2), folder / "run"
        )
    results = json.loads((path / "results.json").read_text())
    history = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    results["test"]["confusion"] = [[5, 1, 0], [2, 2, 0], [0, 0, 0]]
    results["pool_usage"] = [[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]]
    results["pool_entries"] = [[[{"name": "apples", "lift": 2.25}], [], [], []], [[], [], [], []]]
    results["pool_words"] = [[["red", "round"], ["sky"], [], []], [["leaf"], [], [], []]]
    figures = [folder / f"{name}.png" for name in ("curves", "confusion", "usage", "clusters")]
    draw_curves(history, figures[0])
    draw_confusion(np.array(results["test"]["confusion"]), ["a", "b", "c"], figures[1])
    draw_usage(np.array(results["pool_usage"]), figures[2])
    Image.new("RGB", (300, 400), "white").save(figures[3])
    return results, history, figures


def changed(results, **run):
    copy = json.loads(json.dumps(results))
    copy["run"] |= run
    return copy


def test_a_report_says_what_was_trained_and_how_well(tmp_path, run):
    results, history, figures = run
    write_report(tmp_path, results, history, figures)
    page = read(tmp_path)
    test = results["test"]
    assert page.words.startswith("pocket on twemoji")
    assert "Prompts for pocket (embedded), trained on 6 images of 3 classes (up to 2 per class)" in page.words
    assert f"test accuracy, {test['images']} images {100 * test['prompted']:.1f}%" in page.words
    assert f"zero-shot {100 * test['zero_shot']:.1f}%: " in page.words
    assert "val accuracy" in page.words
    first, second, _ = results["run"]["classes"]
    assert f"{second} 2 of 4 50.0% {first} 5 of 6 83.3%" in page.words
    assert f"{second} {first} 2 of 4 {first} {second} 1 of 6" in page.words
    assert "Classes without a test image: 1." in page.words
    assert "1 2 of 4 50.0% 50.0% 2 4 of 4 100.0% 40.0%" in page.words
    assert "1 0 50.0% apples (2.2) red, round 1 1 50.0% all alike sky 2 0 10.0% all alike leaf" in page.words
    assert "None: every image could be read." in page.words
    for value in ("weight_diversity", results["run"]["backbone"]["sha256"], results["versions"]["torch"]):
        assert value in page.words
    alts = [image["alt"].split()[0] for image in page.images]
    assert alts == ["Confusion", "Loss", "Share", "One"]


def test_names_are_text_whatever_they_hold(tmp_path, run):
    results, history, figures = run
    hostile = changed(results, classes=HOSTILE, data=f"/data/{HOSTILE[1]}")
    hostile["test"]["confusion"] = (np.ones((5, 5), int) + np.eye(5, dtype=int)).tolist()
    hostile["test"]["skipped"] = HOSTILE
    hostile["run"]["train"]["template"] = HOSTILE[0]
    write_report(tmp_path, hostile, history, figures[:1])
    page = read(tmp_path)
    assert len(page.images) == 1
    for name in HOSTILE:
        assert page.text.count(name) >= 3, name
    assert "5 of the test images could not be read" in page.words


def test_a_thousand_classes_stay_small_and_are_all_there(tmp_path, run):
    results, history, _ = run
    many = changed(results, classes=[f"class number {n}" for n in range(1000)])
    matrix = np.diag(np.arange(1000)) + np.eye(1000, k=1, dtype=int)
    many["test"]["confusion"] = matrix.tolist()
    write_report(tmp_path, many, history * 100, [])
    page = read(tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 1 << 20
    assert "The 12 worst" in page.words
    assert "The 12 best class right accuracy class number 999 999 of 999 100.0%" in page.words
    assert "All 1000 classes, worst first" in page.words
    assert all(f"class number {n} " in page.words for n in range(1000))


def test_what_a_run_does_not_have_is_left_out(tmp_path, run):
    results, history, figures = run
    static = changed(results)
    del static["val"], static["test"]
    static["pool_usage"] = [[], []]
    del static["pool_entries"]
    write_report(tmp_path, static, history, figures[:1])
    page = read(tmp_path)
    assert len(page.images) == 1
    for heading in ("accuracy, ", "Classes", "Prompt pool", "What one image retrieves"):
        assert heading not in page.text
    del static["pool_usage"]
    write_report(tmp_path, static, history, figures[:1])
    assert "Prompt pool" not in read(tmp_path).text


def test_a_pool_that_all_blocks_share_is_one_row(tmp_path, run):
    results, history, _ = run
    shared = changed(results)
    shared["pool_usage"] = [[0.5, 0.5, 0.0, 0.0]]
    write_report(tmp_path, shared, history, [])
    assert "busiest entry has all 2 of 4 50.0% 50.0%" in read(tmp_path).words


def test_figures_of_other_names_come_at_the_end(tmp_path, run):
    results, history, figures = run
    other = tmp_path / "tokens & words.png"
    other.write_bytes(figures[3].read_bytes())
    write_report(tmp_path, results, history, [other, *figures])
    assert [image["alt"] for image in read(tmp_path).images][-1] == "tokens & words"


def test_file_names_that_are_no_text_are_shown_by_their_escapes(tmp_path, run):
    results, history, _ = run
    odd = changed(results)
    odd["train"]["skipped"] = ["photos/caf\udce9.jpg is empty"]
    write_report(tmp_path, odd, history, [])
    assert r"photos/caf\udce9.jpg is empty" in read(tmp_path).text


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, run, monkeypatch):
    results, history, _ = run
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(FailedError, match=r"cannot write .*report\.html: No such file"):
        write_report(tmp_path / "missing", results, history, [])

    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # a disk that takes no more
    try:
        with pytest.raises(FailedError, match=r"cannot write .*report\.html: File too large"):
            write_report(tmp_path, results, history, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_confused_pairs_and_accuracies_against_loops():
    matrix = np.random.default_rng(0).integers(0, 4, (20, 20))
    matrix[7] = 0
    names = [str(n) for n in range(20)]
    pairs = [(matrix[r, c], r, c) for r in range(20) for c in range(20) if r != c and matrix[r, c]]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    found = most_confused(matrix, names)
    assert [(p["count"], int(p["truth"]), int(p["predicted"])) for p in found] == pairs[: report.SHOWN]
    rows = class_accuracy(matrix, names)
    assert len(rows) == 19
    assert {row["name"]: row["accuracy"] for row in rows} == {
        str(n): matrix[n, n] / matrix[n].sum() for n in range(20) if n != 7
    }
    order = [(row["accuracy"], -row["images"]) for row in rows]
    assert order == sorted(order)
    assert most_confused(np.diag([3, 4]), ["a", "b"]) == []
