"""The folder of collected images: records that are read as they were written, answers, and what is damaged."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from support.collected import collect, make_item

from attri.runtime.collection.folder import Collection, collected_at
from attri.runtime.collection.item import Item


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label": None, "task": "fill", "region": (1, 2, 3, 4), "threshold": 0.5, "prompt": "ab" * 32},
        {"source": "caf\udce9.png", "top": (('odd "label"\n', 0.5), ("かりんご", 0.25))},
        {"reasons": ("unsure", "flip", "control"), "time": 3.25},
    ],
)
def test_a_record_is_read_as_it_was_written(changes) -> None:
    item = dataclasses.replace(make_item("20260921T141320.250Z_camera0_1"), **changes)
    found = Item.parse(item.name, item.to_json())
    shown = dataclasses.replace(item, source=item.source.replace("\udce9", "\\xe9"))
    assert found == shown
    assert found.feature is not None
    assert item.feature is not None
    assert found.feature.tolist() == item.feature.tolist()
    assert json.loads(item.to_json())["schema"] == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"schema": 2}', b'{"schema": 1, "source": "a"}'])
def test_what_is_no_record_is_told_once_and_left_out(tmp_path: Path, data: bytes, caplog) -> None:
    first, second = collect(tmp_path, 2)
    (tmp_path / f"{first}.json").write_bytes(data)
    files = Collection(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [item.name for item in files.items()] == [second]
    assert len(caplog.messages) == 1
    assert first in caplog.text


def test_an_image_without_a_record_does_not_count_and_stays(tmp_path: Path) -> None:
    first, second = collect(tmp_path, 2)
    (tmp_path / f"{first}.json").unlink()
    files = Collection(tmp_path)
    files.remove_leftovers()
    assert files.content().names == [second]
    assert not files.has(first)
    assert files.has(second)
    assert files.image(first).exists()  # it may be somebody's
    assert files.content().nbytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_leftovers_of_a_kill_go_once_nobody_writes_them(tmp_path: Path) -> None:
    (name,) = collect(tmp_path, 1)
    for number, age in enumerate((0, 7200)):
        part = tmp_path / f".{name}.jpg.0000000{number}.part"
        part.write_bytes(b"torn")
        os.utime(part, (part.stat().st_mtime - age,) * 2)
    theirs = tmp_path / ".mine.part"
    theirs.write_bytes(b"not ours")
    os.utime(theirs, (0, 0))
    Collection(tmp_path).remove_leftovers()
    assert sorted(file.name for file in tmp_path.glob(".*")) == [f".{name}.jpg.00000000.part", ".mine.part"]


def test_answers_are_kept_beside_the_image_and_nothing_else_changes(tmp_path: Path) -> None:
    first, second, third = collect(tmp_path, 3)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    files = Collection(tmp_path)
    files.set_answers({first: "かりんご", second: None})
    found = {name: files.answer(name) for name in (first, second, third)}
    assert [None if each is None else each.label for each in found.values()] == ["かりんご", None, None]
    assert found[second] is not None  # none of the labels is an answer
    assert found[third] is None
    files.set_answers({first: "bird"})
    assert files.answer(first).label == "bird"
    files.remove_answer(first)
    files.remove_answer(first)
    files.remove_answer(second)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("data", [b"", b"[]", b'{"label": "bird"}', b"\xff"])
def test_an_answer_that_is_damaged_is_none(tmp_path: Path, data: bytes, caplog) -> None:
    (name,) = collect(tmp_path, 1)
    (tmp_path / f"{name}.answer.json").write_bytes(data)
    files = Collection(tmp_path)
    assert files.answer(name) is files.answer(name) is None
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "20260921T141320.250Z_../x", "20260921T141320.250Z_a\0"])
def test_names_that_are_none_are_not_there(tmp_path: Path, name: str) -> None:
    assert not Collection(tmp_path).has(name)
    with pytest.raises(ValueError, match="not the name"):
        collected_at(name)


def test_names_are_told_apart_and_say_when(tmp_path: Path) -> None:
    files = Collection(tmp_path)
    names = []
    for _ in range(3):
        with files.locked():
            name = files.free_name(1_790_000_000.25, "camera0_1")
            files.add(make_item(name), b"jpeg")
        names.append(name)
    assert names == [f"20260921T141320.250Z_camera0_1{end}" for end in ("", "-2", "-3")]
    assert {collected_at(name) for name in names} == {1_790_000_000.25}
    assert files.content().names == sorted(names)


def test_an_image_has_its_name_once_all_of_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    sync = os.fsync

    def look(file: int) -> None:
        seen.append((Path(f"/proc/self/fd/{file}").readlink().suffix, len(Collection(tmp_path).content().names)))
        sync(file)

    monkeypatch.setattr("os.fsync", look)
    Collection(tmp_path).add(make_item("20260921T141320.250Z_camera0_1"), b"jpeg")
    assert seen == [(".part", 0), (".part", 0), ("", 1)]  # both files, then their folder


def test_features_are_unit_as_half_floats() -> None:
    item = make_item("20260921T141320.250Z_camera0_1")
    assert item.feature is not None
    assert np.linalg.norm(item.feature.astype(np.float32)) == pytest.approx(1, abs=1e-3)  # float16
