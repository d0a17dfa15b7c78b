"""The tensor file, held against the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attri.runtime.prompt_file.tensor_file import pack, unpack

TENSORS: dict[str, np.ndarray] = {
    "b": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "a": np.array([[1.5, -2]], np.float16),
    "bytes": np.arange(5, dtype=np.uint8),
    "none": np.zeros((0, 4), np.int32),
}
META = {"attri": '{"labels": ["Äpfel"]}', "other": ""}


def test_the_library_reads_what_is_packed(tmp_path: Path) -> None:
    from safetensors import safe_open

    file = tmp_path / "x.safetensors"
    file.write_bytes(pack(TENSORS, META))
    with safe_open(file, "np") as opened:
        assert opened.metadata() == META
        for name, tensor in TENSORS.items():
            np.testing.assert_array_equal(opened.get_tensor(name), tensor)
            assert opened.get_tensor(name).dtype == tensor.dtype


def test_what_the_library_writes_is_unpacked() -> None:
    from safetensors.numpy import save

    tensors, metadata = unpack(save(TENSORS, META))
    assert metadata == META
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor)
        assert not tensors[name].flags.writeable


def test_equal_content_gives_equal_bytes() -> None:
    again = dict(reversed(TENSORS.items()))
    assert pack(TENSORS, META) == pack(again, dict(reversed(META.items())))


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 8,
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        header(x=3),
        header(x={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}),  # no data
        header(x={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}) + b"\0" * 8,
        header(x={"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}) + b"\0" * 8,
        header(x={"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}) + b"\0" * 8,
        header(x={"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}) + b"\0" * 8,
        header(x={"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]}) + b"\0" * 8,
        header(x={"dtype": "object", "shape": [1], "data_offsets": [0, 8]}) + b"\0" * 8,
        header(x={"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}) + b"\0" * 8,
        header(__metadata__=3),
        struct.pack("<Q", 400_000) + b"[" * 400_000,
    ],
)
def test_damage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|no safetensors file|another size|Expecting|Extra data|decode"):
        unpack(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=6))
def test_changed_bytes_are_a_value_error_or_other_content(place: int, bytes_: bytes) -> None:
    """Whether the content is the right one is for the hash in the metadata to tell."""
    data = bytearray(pack(TENSORS, META))
    data[place : place + len(bytes_)] = bytes_
    try:
        tensors, metadata = unpack(bytes(data))
    except ValueError:
        return
    assert all(isinstance(each, np.ndarray) for each in tensors.values())
    assert all(isinstance(each, str) for each in metadata.values())
