"""An S3 bucket of a real server (moto's): what is read there is what lies on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.datasets import Dataset

from attri.runtime.dataset.files import UnreadableError, find_files
from attri.runtime.dataset.plan import Request, make_plan
from attri.runtime.fetch import fetch

pytestmark = pytest.mark.filterwarnings("ignore")  # moto and s3fs warn of each other


@pytest.fixture(scope="module")
def bucket(dataset: Dataset, s3: Any) -> str:
    s3.mkdir("photos")
    for folder in (dataset.parquet, dataset.folder, str(Path(dataset.tars).parent)):
        for file in Path(folder).iterdir():
            s3.pipe(f"photos/{Path(folder).name}/{file.name}", file.read_bytes())
    return "s3://photos"


@pytest.mark.parametrize("word", ["folder", "folder/*.png", "parquet", "parquet/{0,1}.parquet", "tars/{000..002}.tar"])
def test_a_bucket_is_read_like_a_disk(bucket: str, dataset: Dataset, word: str) -> None:
    local = Path(dataset.folder).parent
    found = make_plan(Request(f"{bucket}/{word}", part_rows=10))
    wanted = make_plan(Request(f"{local}/{word}", part_rows=10))
    assert found.remote == word.startswith("folder")
    assert len(found.parts) == len(wanted.parts)
    for ours, theirs in zip(found.parts, wanted.parts, strict=True):
        for remote, on_disk in zip(ours.read(), theirs.read(), strict=True):
            for name in remote.table.column_names:
                values = on_disk.table[name].to_pylist()
                at = [str(value).replace(str(local), bucket) for value in values]
                assert [str(value) for value in remote.table[name].to_pylist()] == at
            if found.remote:
                assert [fetch(url) for url in remote.images] == [Path(path).read_bytes() for path in on_disk.images]
            else:
                assert remote.images == on_disk.images


def test_what_a_bucket_does_not_give_is_one_line_without_keys(bucket: str, s3: Any) -> None:
    with pytest.raises(ValueError, match="s3://photos/nowhere does not exist"):
        find_files(f"{bucket}/nowhere")
    plan = make_plan(Request(f"{bucket}/tars/{{000..001}}.tar"))
    s3.rm("photos/tars/001.tar")
    with pytest.raises(UnreadableError, match=r"s3://photos/tars/001.tar cannot be read: ") as raised:
        list(plan.parts[1].read())
    assert "hunter2" not in str(raised.value)
