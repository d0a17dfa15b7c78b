"""Rows of a dataset: what the classifier says of each image, whatever kind the batch is; bad rows are rows too."""

from __future__ import annotations

import dataclasses
import http.server
import io
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.prompts import kinds_of_prompts

from attri.runtime import Classifier
from attri.runtime.batch import ClassifyBatch
from attri.runtime.bundle import PROMPT
from attri.runtime.errors import BundleNotFoundError, ImageError, UsageError
from attri.runtime.fetch import fetch
from attri.runtime.labels import Label
from attri.runtime.prompt import IndependentScores, Prompt

LABELS = ["red apple", "bird", "a small house"]


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> Iterator[Classifier]:
    with Classifier.load(bundle, LABELS, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def classify(bundle: Path) -> ClassifyBatch:
    return ClassifyBatch(bundle, LABELS, topk=2, threads=1, batch=3)


@pytest.fixture
def rows(image_files: list[Path], tmp_path: Path) -> list[Any]:
    """Images in every form, and among them what is none."""
    cut = tmp_path / "cut.png"
    cut.write_bytes(image_files[0].read_bytes()[:200])
    return [
        image_files[0].read_bytes(),
        str(image_files[1]),
        None,
        {"bytes": image_files[2].read_bytes(), "path": "elsewhere.png"},
        str(cut),
        {"bytes": None, "path": str(image_files[3])},
        b"",
        str(tmp_path / "missing.png"),
    ]


GOOD = {0: 0, 1: 1, 3: 2, 5: 3}  # rows, and the images that they are
ERRORS = {2: "there is no image in this row", 4: "is damaged", 6: "is empty", 7: "does not exist"}


def check(found: dict[str, list[Any]], classifier: Classifier, files: list[Path]) -> None:
    """One image at a time is the slow reference."""
    for row, number in GOOD.items():
        alone = classifier(files[number])
        assert found["label"][row] == alone.label
        assert found["error"][row] is None
        assert found["score"][row] == pytest.approx(alone.score, abs=1e-6)  # of a batch: sums in another order
        assert [one["label"] for one in found["top"][row]] == [label for label, _ in alone.top(2)]
        np.testing.assert_array_equal(found["retrieved"][row], alone.retrieved.ravel())
    for row, says in ERRORS.items():
        assert says in found["error"][row]
        assert found["label"][row] is found["top"][row] is found["retrieved"][row] is None


def test_a_dict_of_columns(
    classify: ClassifyBatch, classifier: Classifier, rows: list[Any], image_files: list[Path]
) -> None:
    found = classify({"image": rows, "id": np.arange(len(rows))})
    assert list(found) == ["image", "id", "label", "score", "top", "retrieved", "error"]
    check(found, classifier, image_files)
    assert found["score"].dtype == np.float32
    assert np.isnan(found["score"][list(ERRORS)]).all()


def test_arrow_tables_and_record_batches(
    bundle: Path, classify: ClassifyBatch, classifier: Classifier, rows: list[Any], image_files: list[Path]
) -> None:
    pa = pytest.importorskip("pyarrow")
    cells = [
        row if row is None or isinstance(row, dict) else {"bytes" if isinstance(row, bytes) else "path": row}
        for row in rows
    ]
    table = pa.table({"image": cells, "id": range(len(rows))})
    for batch in (table, table.to_batches()[0]):
        found = classify(batch)
        assert type(found) is type(batch)
        assert [*found.schema][2:] == classify.fields()
        check(found.to_pydict(), classifier, image_files)
    bare = ClassifyBatch(bundle, LABELS, keep=False, embeddings=True, threads=1)(table)
    assert bare.column_names == ["id", "label", "score", "top", "retrieved", "image_feature", "error"]
    ours = np.array(bare["image_feature"][0].as_py(), np.float32)
    # float16 rounds each of the 192 numbers, which are at most 1, to 2^-11 of its size.
    assert np.abs(ours - classifier.embed_images(image_files[0])).max() < 1e-3
    assert bare["image_feature"][2].as_py() is None


def test_each_task_has_columns_of_its_own(bundle: Path, image_files: list[Path]) -> None:
    prompts = dict(list(kinds_of_prompts(bundle).items())[:2])
    classify = ClassifyBatch(bundle, LABELS, prompts=prompts, prefix="x_", threads=1)
    found = classify({"image": image_files[:2], "label": ["a", "b"]})
    with Classifier.load(bundle, LABELS, prompts=prompts, threads=1) as loaded:
        alone = loaded.classify_tasks(image_files[0])
    assert list(found)[:2] == ["image", "label"]
    for name, prediction in alone.items():
        assert found[f"x_{name}_label"][0] == prediction.label
        assert found[f"x_{name}_score"][0] == pytest.approx(prediction.score, abs=1e-6)
    assert list(found["x_error"]) == [None, None]


def test_labels_with_prompts_a_template_and_a_threshold(bundle: Path, image_files: list[Path]) -> None:
    labels = [Label("fruit", ("a red apple", "a pear"), 1), Label("bird", ("bird",), 2)]
    classify = ClassifyBatch(bundle, labels, template="a drawing of {}", threshold=0.999, threads=1)
    found = classify({"image": image_files[:4]})
    with Classifier.load(bundle, threads=1) as alone:
        alone.set_labels(["fruit", "bird"], prompts=[each.prompts for each in labels], template="a drawing of {}")
        scores = [alone(file).score for file in image_files[:4]]
    assert list(found["score"]) == pytest.approx(scores, abs=1e-6)
    assert list(found["label"]) == [None] * 4
    own = ClassifyBatch(bundle, {"a": labels, "b": None}, prompts={"a": None, "b": None}, threads=1)
    assert own.classifier.tasks["a"].labels == ("fruit", "bird")
    with Classifier.load(bundle, threads=1) as alone:
        assert own.classifier.tasks["b"].labels == alone.labels


def test_batches_of_any_size_come_back_as_they_were(classify: ClassifyBatch, image_files: list[Path]) -> None:
    sizes = [0, 2, 0, 0, 5, 1, 0]
    files = iter(image_files)
    batches = [{"image": [next(files) for _ in range(size)], "id": np.full(size, n)} for n, size in enumerate(sizes)]
    found = list(classify.map(iter(batches)))
    assert [len(each["label"]) for each in found] == sizes
    assert [list(each["id"]) for each in found] == [[n] * size for n, size in enumerate(sizes)]
    alone = classify({"image": image_files[: sum(sizes)]})
    assert [label for each in found for label in each["label"]] == list(alone["label"])
    with pytest.raises(UsageError, match="no column 'image'"):
        list(classify.map([batches[1], {"photo": []}]))


def test_batches_side_by_side_give_the_same_rows_in_the_same_order(
    bundle: Path, classify: ClassifyBatch, image_files: list[Path]
) -> None:
    images = [*image_files[:14], b"damaged", *image_files[14:20]]
    one, other = classify, ClassifyBatch(bundle, LABELS, topk=2, threads=1, batch=3, side_by_side=3)
    alone, beside = one({"image": images}), other({"image": images})
    assert list(beside["label"]) == list(alone["label"])
    assert list(beside["error"]) == list(alone["error"])
    np.testing.assert_allclose(beside["score"], alone["score"], atol=1e-6)  # of a batch: sums in another order
    with pytest.raises(UsageError, match="`side_by_side` is 0"):
        ClassifyBatch(bundle, side_by_side=0)


def test_fast_jpeg_is_for_jpegs_and_only_when_asked(bundle: Path, image_files: list[Path]) -> None:
    with Image.open(image_files[0]) as image:
        large = image.convert("RGB").resize((600, 500))
    files = {kind: io.BytesIO() for kind in ("JPEG", "PNG")}
    for kind, file in files.items():
        large.save(file, kind)
    images = {"image": [file.getvalue() for file in files.values()]}
    whole = ClassifyBatch(bundle, LABELS, threads=1, embeddings=True)(images)["image_feature"]
    fast = ClassifyBatch(bundle, LABELS, threads=1, embeddings=True, fast_jpeg=True)(images)["image_feature"]
    np.testing.assert_array_equal(fast[1], whole[1])
    assert (fast[0] != whole[0]).any()
    # Both averaged 500 pixels down to 64; the one of them 250. Measured: 0.9998 and more (benchmarks/datasets.md).
    assert fast[0].astype(np.float32) @ whole[0].astype(np.float32) > 0.99


def test_labels_that_hold_by_themselves(bundle: Path, image_files: list[Path]) -> None:
    plain = Prompt.read(bundle / PROMPT)
    scores = IndependentScores(50.0, -5.0)
    prompt = Prompt.of(dataclasses.replace(plain.facts, independent=scores, labels=LABELS), plain.tensors)
    classify = ClassifyBatch(bundle, prompt=prompt, threads=1, independent=True)
    found = classify({"image": [image_files[0], None]})
    held = classify.classifier(image_files[0]).held
    assert held is not None
    assert [(one["label"], pytest.approx(one["score"], abs=1e-6)) for one in found["labels"][0]] == list(held)
    assert found["labels"][1] is None


def test_what_cannot_be_is_said_before_anything_is_classified(bundle: Path, image_files: list[Path]) -> None:
    with pytest.raises(UsageError, match="`topk` is 0"):
        ClassifyBatch(bundle, topk=0)
    with pytest.raises(UsageError, match="there is no argument 'thread'"):
        ClassifyBatch(bundle, thread=1)
    classify = ClassifyBatch(bundle, LABELS, threads=1)
    with pytest.raises(UsageError, match="str is not a batch: give a dict of columns"):
        classify("photo.png")
    with pytest.raises(UsageError, match="no column 'image', but photo, id: set `column`"):
        classify({"photo": [], "id": []})
    with pytest.raises(UsageError, match="a column 'label' already: set `prefix`"):
        classify({"image": [], "label": []})
    with pytest.raises(BundleNotFoundError):
        ClassifyBatch(bundle / "nowhere")({"image": [image_files[0]]})


def test_an_empty_batch_has_the_columns_too(classify: ClassifyBatch) -> None:
    assert {name: len(values) for name, values in classify({"image": []}).items()} == dict.fromkeys(
        ["image", "label", "score", "top", "retrieved", "error"], 0
    )


def test_it_travels_without_the_bundle_and_threads_share_one(bundle: Path, image_files: list[Path]) -> None:
    classify = ClassifyBatch(bundle, LABELS, threads=1)
    before = classify({"image": image_files[:4]})
    sent = pickle.dumps(classify)
    assert len(sent) < 2000
    copy = pickle.loads(sent)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(copy({"image": image_files[:4]}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(list(each["label"]) == list(before["label"]) for each in found)
    assert len(found) == 4
    assert [list(each["label"]) for each in classify.map([{"image": image_files[:1]}])] == [[before["label"][0]]]


class Server(http.server.BaseHTTPRequestHandler):
    """A file, one that never ends, and nothing else."""

    def do_GET(self) -> None:
        """Answer."""
        name = self.path.partition("?")[0]
        if name not in ("/a.png", "/endless"):
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        try:
            while name == "/endless":
                self.wfile.write(bytes(1 << 16))
            self.wfile.write(self.server.body)  # type: ignore[attr-defined]
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(image_files: list[Path]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.body = image_files[0].read_bytes()  # type: ignore[attr-defined]
    threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls_are_fetched_and_bounded(
    site: str, classify: ClassifyBatch, classifier: Classifier, image_files: list[Path]
) -> None:
    urls = [f"{site}/a.png", f"{site}/none.png?token=hunter2", image_files[1].as_uri()]
    found = classify({"image": urls})
    with Image.open(image_files[0]) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert classify({"image": pixels[None]})["label"][0] == classifier(pixels).label
    assert list(found["label"]) == [classifier(image_files[0]).label, None, classifier(image_files[1]).label]
    assert found["error"][1] == f"{site}/none.png?token=*** cannot be read: HTTP Error 404: Not Found"
    with pytest.raises(ImageError, match="is too large: over 1 MiB"):
        fetch(f"{site}/endless", max_bytes=1 << 20)
    with pytest.raises(ImageError, match="takes longer than 0 seconds"):
        fetch(f"{site}/endless", max_bytes=1 << 40, deadline=0.1)
    memory = pytest.importorskip("fsspec").filesystem("memory")
    with memory.open("/a.png", "wb") as file:
        file.write(image_files[2].read_bytes())
    assert fetch("memory://a.png") == image_files[2].read_bytes()
    with pytest.raises(ImageError, match="cannot be read"):
        fetch("memory://missing.png")
