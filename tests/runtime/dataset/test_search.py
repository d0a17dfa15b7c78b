"""Search: what a plain loop over all rows finds, by features and by prompted text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attri.runtime import Classifier
from attri.runtime.batch import ClassifyBatch
from attri.runtime.dataset.files import UnreadableError
from attri.runtime.dataset.output.bucket import place_of
from attri.runtime.dataset.output.output import run_file_of
from attri.runtime.dataset.search import Index, nearest_others, search_text
from attri.runtime.errors import UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def index(bundle: Path, image_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of 20 images and a row with an error."""
    path = tmp_path_factory.mktemp("index")
    classify = ClassifyBatch(bundle, ["bird", "tool"], column="path", embeddings=True, threads=1)
    cells = [None, *map(str, image_files[:20])]
    for number, part in enumerate((cells[:8], cells[8:])):
        table = classify(pa.table({"path": pa.array(part, pa.string())}))
        parquet.write_table(table, path / f"part-{number}.parquet")
    return path


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> Any:
    with Classifier.load(bundle, threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("count", [1, 5, 100])
def test_an_image_finds_itself_and_then_the_nearest(
    index: Path, classifier: Classifier, image_files: list[Path], count: int
) -> None:
    features = classifier.embed_images(image_files[:20])
    found = Index(index).nearest(features[7], count)
    cosines = features @ features[7]
    assert [row.columns["path"] for row in found][:3] == [str(image_files[n]) for n in np.argsort(-cosines)][:3][:count]
    assert len(found) == min(count, 20)
    # float16 rounds each of the 192 numbers to 2^-11 of its size; cosines to less than that.
    assert [row.cosine for row in found] == pytest.approx(sorted(cosines, reverse=True)[:count], abs=1e-3)


def test_words_are_compared_as_the_classifier_does_it(
    index: Path, classifier: Classifier, image_files: list[Path]
) -> None:
    found = search_text(Index(index), classifier, "a red apple", 20)
    classifier.labels = ["a red apple", "anything"]
    pixels = np.stack([classifier.bundle.preprocess()(file) for file in image_files[:20]])
    cosines = classifier.cosines(*classifier.encode_image(pixels))[:, 0]
    expected = dict(zip(map(str, image_files[:20]), cosines, strict=True))
    assert len(found) == 20
    for row in found:
        assert row.cosine == pytest.approx(expected[row.columns["path"]], abs=1e-3)  # of features in float16
    assert [row.cosine for row in found] == sorted((row.cosine for row in found), reverse=True)
    assert set(found[0].columns) == {"path", "label", "score"}


def test_what_is_no_index_of_this_bundle_is_refused(
    index: Path, bundle: Path, classifier: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds no Parquet"):
        Index(tmp_path)
    parquet.write_table(pa.table({"path": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="has no column 'image_feature': make it with --embeddings"):
        Index(tmp_path)
    with pytest.raises(UsageError, match=r"features of \d+ numbers, the bundle 3"):
        Index(index).nearest(np.ones(3, np.float32), 1)
    Index(index).check(classifier)
    run_file_of(index).write_text('{"bundle": {}, "prompts": {"": "another"}}')
    with pytest.raises(UsageError, match="was made with another bundle or prompt"):
        Index(index).check(classifier)
    run_file_of(index).unlink()


@pytest.mark.parametrize(("rows", "count"), [(0, 1), (1, 1), (3, 10), (50, 7)])
def test_the_nearest_others_are_those_of_a_plain_loop(rows: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attri.runtime.dataset.search.ROWS", 8)  # several blocks, the last one shorter
    features = np.random.default_rng(0).normal(size=(rows, 16))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    cosines, places = nearest_others(features, count)
    assert cosines.shape == places.shape == (rows, max(0, min(count, rows - 1)))
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    for row in range(rows):
        others = sorted((place for place in range(rows) if place != row), key=lambda place: -exact[row, place])
        assert places[row].tolist() == others[:count]
        assert cosines[row] == pytest.approx(exact[row, others[:count]], abs=1e-6)  # products in float32


def test_a_row_that_is_there_twice_is_a_duplicate_once(index: Path, tmp_path: Path) -> None:
    tables = [parquet.read_table(file) for file in sorted(index.glob("*.parquet"))]
    parquet.write_table(pa.concat_tables([*tables, tables[0].slice(3, 1)]), tmp_path / "part-0.parquet")
    pairs = Index(tmp_path).duplicates(30)
    path = tables[0].slice(3, 1)["path"][0].as_py()
    assert [row.columns["path"] for row in pairs[0]] == [path, path]
    assert pairs[0][0].cosine == pytest.approx(1, abs=1e-3)  # float16
    places = [(a.place, b.place) for a, b in pairs]
    assert len(set(places)) == len(places) <= 21
    assert all(a < b for a, b in places)


def test_outliers_are_far_from_all_others(index: Path, classifier: Classifier, image_files: list[Path]) -> None:
    features = classifier.embed_images(image_files[:20])
    cosines = features @ features.T - 2 * np.eye(20)
    far = np.sort(cosines, 1)[:, -10:].mean(1)
    found = Index(index).outliers(20)
    assert [row.cosine for row in found] == pytest.approx(sorted(far), abs=1e-3)  # of features in float16
    assert found[0].columns["path"] == str(image_files[far.argmin()])


@pytest.mark.filterwarnings("ignore")  # moto and s3fs warn of each other
def test_an_index_in_a_bucket_gives_the_same_rows(index: Path, classifier: Classifier, s3: Any) -> None:
    s3.mkdir("indexes")
    s3.put(str(index), "indexes/index", recursive=True)
    here, there = Index(index), Index(place_of("s3://indexes/index"))
    assert [str(row) for row in search_text(there, classifier, "tool", 20)] == [
        str(row) for row in search_text(here, classifier, "tool", 20)
    ]
    assert [str(pair) for pair in there.duplicates(5)] == [str(pair) for pair in here.duplicates(5)]
    with pytest.raises(UsageError, match="s3://indexes/nothing holds no Parquet"):
        Index(place_of("s3://indexes/nothing"))
    s3.pipe("indexes/damaged/part-0.parquet", b"PAR1 and no more")
    with pytest.raises(UnreadableError, match=r"s3://indexes/damaged/part-0\.parquet"):
        Index(place_of("s3://indexes/damaged"))
