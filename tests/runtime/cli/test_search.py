"""`attri-search` on what `attri-batch --embeddings` wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attri.runtime.cli.batch import main as attri_batch
from attri.runtime.cli.search import main

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[str, str]]]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(command: object, *args: object, code: int = 0, threads: bool = True) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            command([*map(str, args), *(["--threads", "1"] if threads else [])])  # type: ignore[operator]
        out, err = capsys.readouterr()
        assert stop.value.code == code, err
        return out, err

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)


def test_words_and_images_find_rows(
    run: Callable[..., tuple[str, str]], bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number, file in enumerate(image_files[:6]):
        (tmp_path / "in" / f"{number}.png").write_bytes(file.read_bytes())
    model, index = ["--bundle", bundle], tmp_path / "index"
    run(attri_batch, tmp_path / "in", "--output", index, "--embeddings", *model)
    out, _ = run(main, index, image_files[4], "--image", "--count", 2, *model)
    assert out.splitlines()[0].startswith(f"1.000  path {tmp_path}/in/4.png  label ")
    assert len(out.splitlines()) == 2
    out, err = run(main, index, "a red apple", "--json", *model)
    rows = [json.loads(line) for line in out.splitlines()]
    assert len({row["path"] for row in rows}) == 6
    assert list(rows[0]) == ["path", "label", "score", "cosine"]
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)
    assert err == ""
    assert "QUERY is empty" in run(main, index, " ", *model, code=2)[1]
    assert "does not exist" in run(main, index, "nowhere.png", "--image", *model, code=1)[1]


def test_duplicates_and_outliers(
    run: Callable[..., tuple[str, str]], bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number, file in enumerate([*image_files[:5], image_files[2]]):
        (tmp_path / "in" / f"{number}.png").write_bytes(file.read_bytes())
    index = tmp_path / "index"
    run(attri_batch, tmp_path / "in", "--output", index, "--embeddings", "--bundle", bundle)
    out, _ = run(main, index, "--duplicates", "--count", 1, threads=False)
    first, second = out.split("  |  ")
    assert first.startswith(f"1.000  path {tmp_path}/in/2.png  label ")
    assert second.startswith(f"path {tmp_path}/in/5.png  label ")
    (pair,) = map(json.loads, run(main, index, "--duplicates", "--count", 1, "--json", threads=False)[0].splitlines())
    assert pair["cosine"] == pytest.approx(1, abs=1e-3)  # of features in float16
    assert [Path(row["path"]).name for row in pair["rows"]] == ["2.png", "5.png"]
    rows = [json.loads(line) for line in run(main, index, "--outliers", "--json", threads=False)[0].splitlines()]
    assert len(rows) == 6
    assert [row["cosine"] for row in rows] == sorted(row["cosine"] for row in rows)
    assert "give one of QUERY, --duplicates and --outliers" in run(main, index, "--outliers", "x", code=2)[1]
    assert "give one of QUERY" in run(main, index, code=2)[1]
    assert "--threads is for a QUERY" in run(main, index, "--outliers", code=2)[1]
