"""A lock in a bucket of a real server (moto's): one holder at a time, and a killed one does not keep others out."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from attri.runtime.dataset.output.bucket import BucketPath, place_of
from attri.runtime.dataset.output.bucket_lock import BucketLock
from attri.runtime.dataset.output.output import Output
from attri.runtime.errors import FailedError

pa = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore")  # moto and s3fs warn of each other
SCHEMA = pa.schema([("id", pa.int64()), ("error", pa.string())])


@pytest.fixture(scope="module")
def bucket(s3: Any) -> str:
    s3.mkdir("locks")
    return "s3://locks"


def lock(bucket: str, name: str, beat: float = 0.1, lease: float = 30.0) -> BucketLock:
    return BucketLock(BucketPath(f"{bucket}/{name}/.out.lock"), f"{bucket}/{name}/out", beat, lease)


def test_one_of_many_at_once_has_it(s3: Any, bucket: str) -> None:
    held, refused, start = [], [], threading.Barrier(4)
    done = threading.Event()

    def ask() -> None:
        start.wait(60)
        try:
            with lock(bucket, "many").held():
                held.append(1)
                done.wait(60)
        except FailedError as error:
            refused.append(str(error))
            if len(refused) == 3:
                done.set()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(held) == 1
    assert len(refused) == 3
    assert all("another attri-batch (process " in said for said in refused)
    assert all(said.endswith("writes to s3://locks/many/out: wait for it") for said in refused)
    s3.invalidate_cache()
    assert not s3.exists("locks/many/.out.lock")


def test_that_of_a_killed_process_is_taken_and_damage_too(s3: Any, bucket: str) -> None:
    for left in (json.dumps({"host": "gone", "process": 1, "id": "x"}).encode(), b"", b"\xff", b"[]"):
        s3.pipe("locks/killed/.out.lock", left)
        with lock(bucket, "killed", lease=0.5).held():
            assert json.loads(s3.cat("locks/killed/.out.lock"))["id"] != "x"


def test_a_storage_that_does_not_know_the_condition_keeps_a_second_out(
    s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(place: BucketPath, data: bytes) -> bool:
        place.write_bytes(data)
        return True

    monkeypatch.setattr(BucketPath, "create", create)
    with lock(bucket, "unknown").held():
        with pytest.raises(FailedError, match="another attri-batch"), lock(bucket, "unknown").held():
            pass
        assert s3.exists("locks/unknown/.out.lock")


def test_a_holder_whose_lock_was_taken_writes_no_more(s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "attri.runtime.dataset.output.output.BucketLock", lambda place, name: BucketLock(place, name, 0.05, 30.0)
    )
    out = Output(place_of(f"{bucket}/taken/out"), {}, SCHEMA)
    rows = pa.Table.from_pylist([{"id": 1, "error": None}], SCHEMA)
    with out.locked():
        out.write(0, [rows])

        def write_on() -> None:
            for number in range(1, 1000):
                s3.pipe("locks/taken/.out.lock", json.dumps({"id": "another"}).encode())  # it too renews its lock
                out.write(number, [rows])

        with pytest.raises(FailedError, match="another attri-batch writes to s3://locks/taken/out now"):
            write_on()
    s3.invalidate_cache()
    assert json.loads(s3.cat("locks/taken/.out.lock")) == {"id": "another"}  # which goes on
