"""`attri-batch` as a person meets it: rows of every kind of input, bad ones too, after kills, and on engines."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.datasets import DAMAGED, Dataset, write_dataset
from support.fakes import wait_for

from attri.runtime import Classifier
from attri.runtime.cli.batch import main

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("ignore")  # engines warn of themselves, and close files when they like
Batch = Callable[..., str]


@pytest.fixture(scope="module")
def dataset(image_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(image_files[:24], tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def expected(bundle: Path, dataset: Dataset) -> list[Any]:
    """What the classifier says of each image by itself."""
    labels = ["red apple", "かりんご", "bird"]
    with Classifier.load(bundle, labels, threads=1) as classifier:
        return [None if n in DAMAGED else classifier(file) for n, file in enumerate(dataset.files)]


@pytest.fixture
def attri_batch(bundle: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Batch]:
    """The command in this process; it gives its log, and ends with a code of 0 unless told otherwise."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*args: object, code: int = 0) -> str:
        words = [*map(str, args), "--bundle", str(bundle), "--labels", str(labels), "--threads", "1"]
        with pytest.raises(SystemExit) as stop:
            main(words, prog_name="attri-batch")
        out, err = capsys.readouterr()
        assert stop.value.code == code, err
        assert out == ""
        return err

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def check(rows: list[dict[str, Any]], expected: list[Any]) -> None:
    assert len(rows) == len(expected)
    for number, (row, alone) in enumerate(zip(rows, expected, strict=True)):
        if number in DAMAGED:
            assert "is damaged" in row["error"]
            assert row["label"] is row["score"] is row["top"] is None
        else:
            assert row["error"] is None
            assert row["label"] == alone.label
            assert row["score"] == pytest.approx(alone.score, abs=2e-6)  # of a batch, and rounded to 6 digits in text


@pytest.mark.parametrize("word", ["parquet", "tars", "folder"])
def test_every_kind_of_input_gives_the_same_rows(
    attri_batch: Batch, dataset: Dataset, expected: list[Any], tmp_path: Path, word: str
) -> None:
    said = attri_batch(getattr(dataset, word), "--output", tmp_path / "out", "--part-rows", 10)
    assert "24 rows, 2 errors, 100%" in said
    table = parquet.read_table(tmp_path / "out")
    kept = {"parquet": ["id", "split"], "tars": ["shard", "key", "name"], "folder": ["path"]}[word]
    assert table.column_names == [*kept, "label", "score", "top", "retrieved", "error"]
    check(table.to_pylist(), expected)


def test_json_lines_and_csv(attri_batch: Batch, dataset: Dataset, expected: list[Any], tmp_path: Path) -> None:
    attri_batch(dataset.tars, "--output", tmp_path / "out.jsonl", "--columns", "key,cls", "--topk", 2)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    check([json.loads(line) for line in lines], expected)
    assert "かりんご" in "".join(lines)
    first = json.loads(lines[0])
    assert list(first) == ["key", "cls", "label", "score", "top", "retrieved", "error"]
    assert len(first["top"]) == 2
    said = attri_batch(dataset.tars, "--output", tmp_path / "out.jsonl", "--columns", "key,cls", "--topk", 2)
    assert "out.jsonl is finished already" in said
    attri_batch(dataset.parquet, "--output", tmp_path / "out.csv", "--where", "split == 'val'", "--embeddings")
    assert (
        (tmp_path / "out.csv")
        .read_text(encoding="utf-8")
        .startswith("id,split,label,score,top,retrieved,image_feature")
    )
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 1 + 8


def test_a_summary_of_folders_of_parts_and_of_text(attri_batch: Batch, dataset: Dataset, tmp_path: Path) -> None:
    for name in ("out", "out.jsonl"):
        words = [dataset.parquet, "--output", tmp_path / name, "--sample", 6, "--summary", tmp_path / "page.html"]
        attri_batch(*words)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "6 rows, " in page
        assert "<h3>Labels</h3>" in page
        (tmp_path / "page.html").unlink()
    assert "--summary is made of parts, and " in attri_batch(*words, code=2)
    words[2] = tmp_path / "out"
    attri_batch(*words)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_tasks_each_have_their_columns(attri_batch: Batch, dataset: Dataset, labels: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("dog = a dog; a puppy\ncat\n", encoding="utf-8")
    words = ["--task", "pet=:" + str(other), "--task", "any=", "--prefix", "x_", "--limit", 3]
    attri_batch(dataset.parquet, "--output", tmp_path / "out", *words)
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert {row["x_pet_label"] for row in rows} <= {"dog", "cat"}
    assert {row["x_any_label"] for row in rows} <= set(labels.read_text(encoding="utf-8").splitlines())


class Stalling(http.server.BaseHTTPRequestHandler):
    """Files of a folder; from the twelfth on it waits to be told."""

    def do_GET(self) -> None:
        """Answer."""
        name = Path(self.path.partition("?")[0]).name
        if int(Path(name).stem) >= 12:
            self.server.release.wait(60)  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):  # whoever asked was killed
            self.send_response(200)
            self.end_headers()
            self.wfile.write((self.server.folder / name).read_bytes())  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(dataset: Dataset) -> Iterator[http.server.ThreadingHTTPServer]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    served.daemon_threads = False  # closing waits for them
    served.folder, served.release = Path(dataset.folder), threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=partial(served.serve_forever, 0.05), daemon=True).start()
    yield served
    served.release.set()  # type: ignore[attr-defined]
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_a_killed_run_goes_on_where_it_was_and_repeats_nothing(
    attri_batch: Batch,
    bundle: Path,
    labels: Path,
    expected: list[Any],
    server: http.server.ThreadingHTTPServer,
    tmp_path: Path,
    name: str,
) -> None:
    urls = [f"http://127.0.0.1:{server.server_port}/{number:04d}.png?token=hunter2" for number in range(24)]
    parquet.write_table(pa.table({"id": range(24), "image": urls}), tmp_path / "in.parquet")
    words = [str(tmp_path / "in.parquet"), "--output", str(tmp_path / name), "--part-rows", "5", "--columns", "id"]
    folder = tmp_path / (name if name == "out" else f".{name}.parts")
    model = ["--bundle", str(bundle), "--labels", str(labels), "--threads", "1", "--max-batch", "5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "attri.runtime.cli.batch", *words, *model], stderr=subprocess.PIPE
    )
    wait_for(lambda: (folder / "part-000001.parquet").exists(), 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path.name: path.stat().st_ino for path in folder.glob("part-*.parquet")}
    assert len(before) == 2
    server.release.set()  # type: ignore[attr-defined]
    said = attri_batch(*words, "--max-batch", 5)
    assert "2 parts of 5 done before: 10 rows, 1 error" in said
    assert "hunter2" not in said
    if name == "out":
        assert {path.name: path.stat().st_ino for path in folder.iterdir() if path.name in before} == before
        rows = parquet.read_table(folder).to_pylist()
    else:
        rows = [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        assert not folder.exists()
    assert [row["id"] for row in rows] == list(range(24))
    check(rows, expected)


def test_a_part_that_cannot_be_read_is_told_and_tried_again(
    attri_batch: Batch, dataset: Dataset, tmp_path: Path
) -> None:
    words = ["http://127.0.0.1:9/{0,1}.tar", "--output", tmp_path / "out"]
    said = attri_batch(*words, code=1)
    assert "error: 2 parts of 2 cannot be read (http://127.0.0.1:9/0.tar cannot be read: " in said
    assert "the same command tries them again" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_another_command_does_not_add_its_rows(attri_batch: Batch, dataset: Dataset, tmp_path: Path) -> None:
    attri_batch(dataset.folder, "--output", tmp_path / "out", "--limit", 2)
    said = attri_batch(dataset.folder, "--output", tmp_path / "out", "--limit", 3, "--topk", 2, code=2)
    assert "out has rows of another command (limit, topk): name another --output, or remove it" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "1", "--sample", "1"], "--limit and --sample are two ways"),
        (["--workers", "2"], "--workers and --ray-address are for --engine ray or daft"),
        (["--where", "split ~ 3"], "--where 'split ~ 3' cannot be read"),
        (["--columns", "id,nonsense"], "has no column 'nonsense', but id, split, image"),
        (["--image-column", "photo"], "has no column 'photo', but id, split, image: give --image-column"),
        (["--summary", "/nowhere/page.html"], "the folder /nowhere does not exist"),
        (["--output", "sftp://u:hunter2@host/out"], "sftp://***@host/out: give a path, or a name in a bucket (s3://"),
        (["--output", "s3://bucket/"], "s3://bucket/ is a whole bucket: name a folder in it"),
        (["--explain"], "has no explain.onnx to explain with: export it again with attri-export --explain"),
        (["--prompt", "x", "--task", "a=y"], "--prompt: every task has its own"),
        (["--shortlist", "1", "--topk", "2"], "--topk 2 shows more labels than --shortlist 1"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(
    attri_batch: Batch, dataset: Dataset, tmp_path: Path, words: list[str], said: str
) -> None:
    assert said in attri_batch(dataset.parquet, "--output", tmp_path / "out", *words, code=2)
    assert list(tmp_path.glob("*out*")) == []


def test_an_output_that_would_be_found_as_an_input_is_refused(
    attri_batch: Batch, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.png").write_bytes(dataset.files[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert "out lies in ., where the same command would find it" in attri_batch(".", "--output", "out", code=2)
    attri_batch(".", "--output", "out.jsonl")
    assert "finished already" in attri_batch(".", "--output", "out.jsonl")


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("ray", ["--engine", "ray"], "error: ray is not installed: pip install ray"),
        ("pyarrow", [], "error: pyarrow is not installed: pip install 'attri[batch]'"),
    ],
)
def test_what_is_not_installed_says_how_to_mend_it(
    attri_batch: Batch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, words: list[str], said: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert said in attri_batch(tmp_path, "--output", tmp_path / "out", *words, code=1)


def test_columns_of_the_same_name_are_told_apart_by_a_prefix(
    attri_batch: Batch, dataset: Dataset, tmp_path: Path
) -> None:
    parquet.write_table(pa.table({"label": ["truth"], "image": [str(dataset.files[0])]}), tmp_path / "in.parquet")
    words = [tmp_path / "in.parquet", "--output", tmp_path / "out"]
    assert "has a column 'label' already: give --prefix, or --columns" in attri_batch(*words, code=2)
    attri_batch(*words, "--prefix", "clip_")
    (row,) = parquet.read_table(tmp_path / "out").to_pylist()
    assert row["label"] == "truth"
    assert row["clip_error"] is None


@pytest.mark.parametrize("engine", ["ray", "daft"])
@pytest.mark.parametrize("word", ["parquet", "tars"])
def test_engines_give_the_table_of_this_machine(
    attri_batch: Batch, dataset: Dataset, tmp_path: Path, engine: str, word: str
) -> None:
    pytest.importorskip(engine, reason="an engine of .ci/versions, not of make test")
    words = [getattr(dataset, word), "--part-rows", 5]
    attri_batch(*words, "--output", tmp_path / "local")
    attri_batch(*words, "--output", tmp_path / engine, "--engine", engine, "--workers", 2)
    assert parquet.read_table(tmp_path / engine).equals(parquet.read_table(tmp_path / "local"))
