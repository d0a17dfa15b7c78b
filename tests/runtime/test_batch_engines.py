"""The examples of docs/howto/datasets.md, as they stand there, on the engines that are installed; see .ci/versions."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from attri.runtime import Classifier

pytestmark = pytest.mark.filterwarnings("ignore")  # engines warn of themselves, and close files when they like
PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "datasets.md").read_text(encoding="utf-8")
LABELS = ["red apple", "bird"]


def example(title: str) -> str:
    """The lines of code below a heading."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return textwrap.dedent("".join(re.findall(r"^(?:    .*|)\n", section, re.MULTILINE)))


@pytest.fixture
def expected(bundle: Path, image_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is to come out, by name, and where the examples find their files."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    Path("bundle").symlink_to(bundle)
    Path("photo.png").write_bytes(image_files[0].read_bytes())
    files = image_files[:6]
    rows = [{"image": {"bytes": file.read_bytes(), "path": None}, "name": str(file)} for file in files]
    parquet.write_table(pa.Table.from_pylist([*rows, {"image": None, "name": "none"}]), "images.parquet")
    Path("paths.csv").write_text("\n".join(["image", *map(str, files), "missing.png"]))
    with Classifier.load(bundle, LABELS, threads=1) as classifier:
        return {str(file): classifier(file).label for file in files} | {"none": None}


def written() -> dict[str, Any]:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table("classified").to_pylist()
    assert [row["error"] for row in rows if row["name"] == "none"] == ["there is no image in this row"]
    return {row["name"]: row["label"] for row in rows}


def test_a_plain_loop(expected: dict[str, Any]) -> None:
    scope: dict[str, Any] = {}
    exec(example("A plain loop"), scope)
    assert list(scope["result"]["label"]) == [next(iter(expected.values())), None]


def test_ray(expected: dict[str, Any]) -> None:
    ray = pytest.importorskip("ray", reason="an engine of .ci/versions, not of make test")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        exec(example("Ray Data"), {})
    finally:
        ray.shutdown()
    assert written() == expected


def test_two_workers_of_ray_on_one_gpu(expected: dict[str, Any]) -> None:
    """Ray believes in the GPU that it is told of; a CPU does the work."""
    ray = pytest.importorskip("ray", reason="an engine of .ci/versions, not of make test")
    ray.init(num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        exec(example("Ray Data on GPUs").replace('"cuda"', '"cpu", "threads": 1'), {})
    finally:
        ray.shutdown()
    assert written() == expected


def test_daft(expected: dict[str, Any]) -> None:
    pytest.importorskip("daft", reason="an engine of .ci/versions, not of make test")
    exec(example("Daft"), {"__name__": "example"})
    assert written() == expected


def test_dask(expected: dict[str, Any]) -> None:
    pytest.importorskip("dask.dataframe", reason="an engine of .ci/versions, not of make test")
    scope: dict[str, Any] = {}
    exec(example("Dask"), scope)
    found = dict(zip(scope["classified"]["image"], scope["classified"]["label"].fillna("none"), strict=True))
    assert {name: found[name] for name in expected if name != "none"} == {k: v for k, v in expected.items() if v}
    assert found["missing.png"] == "none"


@pytest.mark.slow  # a Java machine, and 400 MB of PySpark, which no job of .ci has
def test_spark(expected: dict[str, Any]) -> None:
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    spark = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        exec(example("Spark"), {"spark": spark})
    finally:
        spark.stop()
    assert written() == expected


def test_what_spark_is_given(expected: dict[str, Any]) -> None:
    """An iterator of record batches in, one out, with the columns of the schema."""
    import pyarrow.parquet

    class Spark:
        """spark.read.parquet(...).mapInArrow(...).write.parquet(...)"""

        batches: list[Any]
        read = write = property(lambda self: self)

        def parquet(self, path: str) -> Spark:
            if path == "classified":
                pyarrow.parquet.write_table(pyarrow.Table.from_batches(self.batches), path)
            self.batches = pyarrow.parquet.read_table(path).to_batches(max_chunksize=3)
            return self

        def mapInArrow(self, function: Any, schema: str) -> Spark:
            self.batches = list(function(iter(self.batches)))
            columns = re.findall(r"(\w+) (?:string|float|array)", schema)
            assert self.batches[0].schema.names == columns
            return self

    exec(example("Spark"), {"spark": Spark()})
    assert written() == expected
