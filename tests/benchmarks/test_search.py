"""benchmarks/search.py on a few of the embedded images, laid out as the archive of groceries is."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")


def test_to_compare_all_rows_twice_is_exact(
    bundle: Path, image_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    search = importlib.import_module("benchmarks.search")
    lines = ["file,split,class"]
    for file in image_files[:24]:
        (tmp_path / "test" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "test" / file.parent.name)
        lines.append(f"test/{file.parent.name}/{file.name},test,{file.parent.name.replace('_', ' ')}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    rows, found, ms = search.measure(bundle, tmp_path, tmp_path, 24, 2)
    assert rows == 24
    assert ms > 0
    assert found["words, 24 rows twice"].exact == 1
    assert found["words, 10 rows twice"].exact < 1  # the prompts of the tests' bundle are random and strong
    assert found["an image"].exact == 1
    assert 0.1 <= found["an image"].right <= 1  # an image finds itself
