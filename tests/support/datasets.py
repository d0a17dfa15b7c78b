"""One dataset as Parquet, tars and a folder: real images, of which two are damaged."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

DAMAGED = (3, 17)


class Dataset(NamedTuple):
    """Where it lies.

    Attributes:
        files: Each row's image, as it was before some were damaged.
        parquet: Two files with columns id, split and image.
        tars: Three, with the split as .cls and the id in .json.
        folder: Of images.
    """

    files: list[Path]
    parquet: str
    tars: str
    folder: str


def write_dataset(files: list[Path], root: Path) -> Dataset:
    """Write the dataset below a folder."""
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        data = file.read_bytes()
        image = {"bytes": data[:100] if number in DAMAGED else data, "path": file.name}
        rows.append({"id": number, "split": "val" if number % 3 == 0 else "train", "image": image})
    for name in ("parquet", "tars", "folder"):
        (root / name).mkdir()
    for part in range(2):
        table = pa.Table.from_pylist(rows[part * 12 : part * 12 + 12])
        parquet.write_table(table, root / "parquet" / f"{part}.parquet", row_group_size=5)
    for part in range(3):
        with tarfile.open(root / "tars" / f"{part:03d}.tar", "w") as tar:
            for row in rows[part * 8 : part * 8 + 8]:
                texts = {"json": json.dumps({"id": row["id"]}).encode(), "cls": row["split"].encode()}
                for suffix, data in {"cls": texts["cls"], "png": row["image"]["bytes"], "json": texts["json"]}.items():
                    add(tar, f"{row['id']:04d}.{suffix}", data)
    for row in rows:
        (root / "folder" / f"{row['id']:04d}.png").write_bytes(row["image"]["bytes"])
    return Dataset(files, f"{root}/parquet", f"{root}/tars/{{000..002}}.tar", f"{root}/folder")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
