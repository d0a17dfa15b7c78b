"""The dataset of `support.datasets`, written once, and a server of buckets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Dataset, write_dataset


@pytest.fixture(scope="session")
def dataset(image_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pytest.importorskip("pyarrow")
    return write_dataset(image_files[:24], tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """The file system of a real server of S3 (moto's), which the environment names."""
    moto = pytest.importorskip("moto.server", reason="of .ci/versions, not of make test")
    s3fs = pytest.importorskip("s3fs", reason="of .ci/versions, not of make test")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key-of-a-test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        yield s3fs.S3FileSystem()
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
