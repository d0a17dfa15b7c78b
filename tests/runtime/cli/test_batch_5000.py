"""5,000 images, 20 of them damaged, as a folder, in 8 tars and in Parquet: everything gives what attri-run says."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.datasets import add
from support.fakes import wait_for

from attri.train.pocket import IMAGES

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.slow

IMAGE_COUNT, TARS, LABELS = 5000, 8, ["red apple", "bird", "tool", "heart", "house"]
DAMAGE = [b"", b"not an image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + bytes(64)]  # and those that are cut
TIE = 1e-4  # of scores: other batches add in another order


def images() -> Iterator[bytes]:
    """The embedded drawings, turned a little further each time they come again; every 250th is damaged."""
    draw, files = random.Random(0), sorted(IMAGES.rglob("*.png"))
    for number in range(IMAGE_COUNT):
        with Image.open(files[number % len(files)]) as image:
            turned = image.convert("RGB").rotate(7 * (number // len(files)), fillcolor="white")
        data = io.BytesIO()
        turned.save(data, "JPEG", quality=draw.randint(75, 95))
        damage = [*DAMAGE, data.getvalue()[:100]]
        yield damage[number // 250 % len(damage)] if number % 250 == 17 else data.getvalue()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """folder/, 000.tar to 007.tar and parquet/ with the same images."""
    root = tmp_path_factory.mktemp("dataset")
    for name in ("folder", "parquet"):
        (root / name).mkdir()
    every = list(images())
    for number, data in enumerate(every):
        (root / "folder" / f"{number:04}.jpg").write_bytes(data)
    for part in range(TARS):
        with tarfile.open(root / f"{part:03}.tar", "w") as tar:
            for number in range(part * IMAGE_COUNT // TARS, (part + 1) * IMAGE_COUNT // TARS):
                add(tar, f"{number:04}.jpg", every[number])
    for part in range(4):
        numbers = range(part * 1250, (part + 1) * 1250)
        table = pa.table({"id": numbers, "image": [every[number] for number in numbers]})
        parquet.write_table(table, root / "parquet" / f"{part}.parquet")
    (root / "labels.txt").write_text("\n".join(LABELS))
    return root


def batch(bundle: Path, dataset: Path, *words: object) -> list[str]:
    command = [sys.executable, "-m", "attri.runtime.cli.batch", *map(str, words)]
    return [*command, "--bundle", str(bundle), "--labels", str(dataset / "labels.txt"), "--threads", "1"]


def rows(folder: Path) -> list[dict[str, Any]]:
    found = parquet.read_table(folder).to_pylist()
    return sorted(({"id": int(row.pop("key", row.get("id"))), **row} for row in found), key=lambda row: row["id"])


@pytest.fixture(scope="module")
def expected(bundle: Path, dataset: Path) -> dict[int, str]:
    """What attri-run says, by image."""
    command = [sys.executable, "-m", "attri.runtime.cli.run", str(dataset / "folder"), "--json", "--threads", "1"]
    command += ["--bundle", str(bundle), "--labels", str(dataset / "labels.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {int(Path(each["source"]).stem): each["label"] for each in found if "label" in each}


def check(found: list[dict[str, Any]], expected: dict[int, str]) -> None:
    assert [row["id"] for row in found] == list(range(IMAGE_COUNT))
    assert {row["id"] for row in found if row["error"]} == set(range(17, IMAGE_COUNT, 250))
    assert expected.keys() == set(range(IMAGE_COUNT)) - set(range(17, IMAGE_COUNT, 250))
    for row in found:
        if not row["error"] and row["label"] != expected[row["id"]]:
            first, second = (one["score"] for one in row["top"][:2])
            assert first - second < TIE, row


def test_tars_that_are_killed_half_way_go_on_without_repeats(
    bundle: Path, dataset: Path, expected: dict[int, str], tmp_path: Path
) -> None:
    command = batch(bundle, dataset, f"{dataset}/{{000..007}}.tar", "--output", tmp_path / "out")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list((tmp_path / "out").glob("part-*.parquet"))) >= 4 or process.poll() is not None, 300)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_ino for path in (tmp_path / "out").glob("part-*.parquet")}
    assert 4 <= len(before) < TARS
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"{len(before)} parts of {TARS} done before: {len(before) * 625} rows" in done.stderr
    assert {path: path.stat().st_ino for path in before} == before
    check(rows(tmp_path / "out"), expected)


@pytest.mark.parametrize("engine", ["local", "ray", "daft"])
def test_parquet_gives_equal_tables_on_every_engine(
    bundle: Path, dataset: Path, expected: dict[int, str], tmp_path: Path, engine: str
) -> None:
    if engine != "local" and importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    words = ["--engine", engine, *(["--workers", "2"] if engine != "local" else [])]
    command = batch(bundle, dataset, dataset / "parquet", "--output", tmp_path / "out", *words, "--part-rows", 625)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (tmp_path / "out").exists(), done.stderr
    check(rows(tmp_path / "out"), expected)
