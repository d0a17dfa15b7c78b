"""An output in a bucket of a real server (moto's): whole parts, resumed by what is there, and of one command."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Dataset

from attri.runtime.cli.batch import main
from attri.runtime.dataset.output.bucket import place_of
from attri.runtime.dataset.output.output import Counts, Output
from attri.runtime.errors import FailedError, SinkError, UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("ignore")  # moto and s3fs warn of each other
SCHEMA = pa.schema([("id", pa.int64()), ("error", pa.string())])
RUN: dict[str, Any] = {"labels": ["a"]}


@pytest.fixture(scope="module")
def bucket(s3: Any) -> str:
    s3.mkdir("results")
    return "s3://results"


def table(*ids: int) -> Any:
    return pa.Table.from_pylist([{"id": each, "error": "bad" if each == 7 else None} for each in ids], SCHEMA)


def objects(s3: Any, prefix: str) -> list[str]:
    s3.invalidate_cache()
    return sorted(name.removeprefix("results/") for name in s3.find("results") if prefix in name)


def test_parts_are_whole_objects_and_another_process_goes_on(s3: Any, bucket: str) -> None:
    def broken() -> Iterator[Any]:
        yield table(3)
        raise FailedError("the network is gone")

    out = Output(place_of(f"{bucket}/a/out"), RUN, SCHEMA)
    with out.locked():
        assert out.done() == {}
        assert out.write(1, [table(6), table(7)]) == Counts(2, 1)
        with pytest.raises(FailedError, match="gone"):
            out.write(0, broken())
    assert objects(s3, "out") == ["a/.out.attri-batch.json", "a/out/part-000001.parquet"]
    again = Output(place_of(f"{bucket}/a/out/"), RUN, SCHEMA)
    with again.locked():
        assert again.done() == {1: Counts(2, 1)}
        again.write(0, [table(3)])
        again.finish()
        assert [(number, rows["id"].to_pylist()) for number, rows in again.tables()] == [(0, [3]), (1, [6, 7])]
    with pytest.raises(UsageError, match=r"s3://results/a/out has rows of another command \(labels\)"):
        Output(place_of(f"{bucket}/a/out"), {"labels": ["b"]}, SCHEMA).locked().__enter__()


def test_text_is_joined_of_parts(s3: Any, bucket: str) -> None:
    out = Output(place_of(f"{bucket}/text.jsonl"), RUN, SCHEMA)
    with out.locked():
        out.write(1, [table(7)])
        out.write(0, [table(1)])
        assert not out.finished
        out.finish()
        assert out.finished
    assert objects(s3, "text") == [".text.jsonl.attri-batch.json", "text.jsonl"]
    assert [json.loads(line)["id"] for line in s3.cat("results/text.jsonl").splitlines()] == [1, 7]


def test_what_is_not_ours_and_what_cannot_be_written_is_one_line(s3: Any, bucket: str) -> None:
    s3.pipe("results/precious/x", b"x")
    with pytest.raises(UsageError, match="s3://results/precious is there, and no attri-batch wrote it"):
        Output(place_of(f"{bucket}/precious"), RUN, SCHEMA).locked().__enter__()
    with pytest.raises(SinkError, match="s3://nobodys/out cannot be written: ") as raised:
        Output(place_of("s3://nobodys/out"), RUN, SCHEMA).locked().__enter__()
    assert "hunter2" not in str(raised.value)


@pytest.fixture
def attri_batch(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*args: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, args), "--bundle", str(bundle), "--threads", "1"], prog_name="attri-batch")
        said = capsys.readouterr().err
        assert stop.value.code == code, said
        return said

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_command_writes_the_rows_of_this_machine(
    attri_batch: Callable[..., str], s3: Any, bucket: str, dataset: Dataset, tmp_path: Path
) -> None:
    words = [dataset.parquet, "--part-rows", 10]
    attri_batch(*words, "--output", tmp_path / "out")
    attri_batch(*words, "--output", f"{bucket}/batch")
    s3.rm("results/batch/part-000001.parquet")
    before = {name: s3.info(name)["LastModified"] for name in s3.find("results/batch")}
    said = attri_batch(*words, "--output", f"{bucket}/batch")
    assert "3 parts of 4 done before: " in said
    assert "hunter2" not in said
    s3.invalidate_cache()
    assert {name: s3.info(name)["LastModified"] for name in before} == before
    found = parquet.read_table("results/batch", filesystem=s3)
    assert found.equals(parquet.read_table(tmp_path / "out"))
    assert json.loads(found.schema.metadata[b"attri"])["fast_jpeg"] is False
    s3.pipe("results/mixed/0.png", dataset.files[0].read_bytes())
    said = attri_batch(f"{bucket}/mixed", "--output", f"{bucket}/mixed/out", code=2)
    assert "s3://results/mixed/out lies in s3://results/mixed, where the same command" in said
