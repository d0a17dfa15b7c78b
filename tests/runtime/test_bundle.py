"""The bundle on disk: whatever is wrong with it, one line says so before anything in it is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from attri.runtime.bundle import CHECK, EMBEDDING, FILES, MANIFEST, SCHEMA, TEXT, Bundle, file_entry
from attri.runtime.errors import BundleError


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def edit(path: Path, change) -> None:
    raw = json.loads((path / MANIFEST).read_text())
    change(raw)
    (path / MANIFEST).write_text(json.dumps(raw))


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.open(path)
    message = str(error.value)
    assert "\n" not in message
    assert error.value.exit_code == 1
    return message


def test_opens_and_says_what_the_model_is(bundle: Path) -> None:
    opened = Bundle.open(str(bundle))
    assert opened.manifest.labels == ["red apple", "bird", "a small house"]
    assert set(opened.manifest.files) == {file.name for file in bundle.iterdir()} - {MANIFEST}
    assert set(opened.manifest.files) == {*FILES, CHECK, "parity.json", "report.html"}
    assert json.loads(opened.manifest.to_json()) == json.loads((bundle / MANIFEST).read_text())


def test_opens_through_a_link_to_the_folder(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    assert Bundle.open(tmp_path / "link").manifest == Bundle.open(bundle).manifest


def test_the_token_embedding_is_mapped_and_not_read(bundle: Path) -> None:
    table = Bundle.open(bundle).token_embedding()
    assert isinstance(table, np.memmap)
    assert not table.flags.writeable
    assert Path(table.filename) == bundle / EMBEDDING


def test_missing_folder(tmp_path: Path) -> None:
    assert "run attri-export" in refused(tmp_path / "nowhere")


def test_a_file_is_no_bundle(bundle: Path) -> None:
    assert "no bundle" in refused(bundle / MANIFEST)


def test_a_folder_without_manifest(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    assert "has no manifest.json" in refused(copy)


@pytest.mark.parametrize(
    "text",
    [b"", b"not JSON", b"[1, 2]", b'"schema"', b"{}", b'{"schema": "1"}', b"\xff\xfe\x00", b"[" * 100_000],
    ids=["empty", "words", "list", "string", "no schema", "schema a string", "not UTF-8", "deep"],
)
def test_a_manifest_that_is_none(copy: Path, text: bytes) -> None:
    (copy / MANIFEST).write_bytes(text)
    assert "export the bundle again" in refused(copy)


def test_a_truncated_manifest(copy: Path) -> None:
    whole = (copy / MANIFEST).read_bytes()
    (copy / MANIFEST).write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refused(copy)


@pytest.mark.parametrize("field", ["model", "logit_scale", "files", "parity"])
def test_a_missing_field_is_named(copy: Path, field: str) -> None:
    edit(copy, lambda raw: raw.pop(field))
    assert f"missing or unknown fields ({field})" in refused(copy)


def test_an_unknown_field_is_named(copy: Path) -> None:
    edit(copy, lambda raw: raw.update(colour="red"))
    assert "missing or unknown fields (colour)" in refused(copy)


@pytest.mark.parametrize("more", [{}, {"colour": "red"}], ids=["same fields", "unknown fields"])
def test_a_newer_schema_asks_for_an_update(copy: Path, more: dict[str, str]) -> None:
    edit(copy, lambda raw: raw.update(schema=SCHEMA + 1, **more))
    message = refused(copy)
    assert f"schema {SCHEMA + 1}" in message
    assert "update attri" in message


def test_an_older_schema_asks_for_a_new_export(copy: Path) -> None:
    edit(copy, lambda raw: raw.update(schema=SCHEMA - 1))
    assert f"schema {SCHEMA - 1}, of an older attri; this one reads {SCHEMA}: export it again" in refused(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "int4"},
        {"image": {}},
        {"image": {"size": 64, "mean": [0.5], "std": [1, 1, 1]}},
        {"image": {"size": 63.5, "mean": [0.5] * 3, "std": [1] * 3}},
        {"image": {"size": True, "mean": [0.5] * 3, "std": [1] * 3}},
        {"image": {"size": 64, "mean": ["0.5"] * 3, "std": [1] * 3}},
        {"image": {"size": 64, "mean": [float("nan")] * 3, "std": [1] * 3}},
        {"image": {"size": 64, "mean": [0.5] * 3, "std": [1, 0, 1]}},
        {"text": {"template": "a {}"}},
        {"text": {"template": "a", "context_length": 77}},
        {"text": {"template": "{} or {}", "context_length": 77}},
        {"text": {"template": "a {}", "context_length": 7.5}},
        {"retrieval": {"depth": 2, "retrieved": 4, "pool_size": 8}},
        {"retrieval": {"depth": 2.5, "retrieved": 4, "pool_size": 8, "topk": 1}},
        {"model": []},
        {"arithmetic": None},
        {"parity": "passed"},
        {"text": []},
        {"logit_scale": "100"},
        {"logit_scale": float("nan")},
        {"labels": "bird"},
        {"labels": [1]},
        {"temperature": 0},
        {"threshold": "0.5"},
        {"files": []},
        {"files": dict.fromkeys(FILES)},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_is_named(copy: Path, change: dict[str, object]) -> None:
    edit(copy, lambda raw: raw.update(change))
    assert f"unusable values ({next(iter(change))})" in refused(copy)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    message = refused(copy)
    assert name in message
    assert "is not the file that was exported" in message


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    assert f"{name} is not the file that was exported" in refused(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert f"{name!r} is missing" in refused(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_manifest_leaves_out_is_never_used_unverified(copy: Path, name: str) -> None:
    edit(copy, lambda raw: raw["files"].pop(name))
    assert f"does not list {name}" in refused(copy)


@pytest.mark.parametrize("key", ["size", "sha256"])
def test_an_entry_without_its_figures(copy: Path, key: str) -> None:
    edit(copy, lambda raw: raw["files"][TEXT].pop(key))
    assert TEXT in refused(copy)


@pytest.mark.parametrize("name", ["../outside", "{tmp}/outside", "deep/../../outside"])
def test_a_name_that_leads_outside(copy: Path, tmp_path: Path, name: str) -> None:
    """The file is there and its figures are right: only its place is wrong."""
    outside = tmp_path / "outside"
    outside.write_text("something")
    name = name.format(tmp=tmp_path)
    edit(copy, lambda raw: raw["files"].update({name: file_entry(outside)}))
    assert f"names a file outside itself ({name!r})" in refused(copy)


def test_a_link_that_leads_outside(copy: Path, tmp_path: Path) -> None:
    (copy / TEXT).rename(tmp_path / TEXT)
    (copy / TEXT).symlink_to(tmp_path / TEXT)
    assert "outside itself" in refused(copy)


@pytest.mark.parametrize("name", ["with\0nul", "two\nlines", "", "loop"])
def test_odd_names(copy: Path, name: str) -> None:
    (copy / "loop").symlink_to(copy / "loop")
    edit(copy, lambda raw: raw["files"].update({name: {"size": 0, "sha256": ""}}))
    assert repr(name) in refused(copy)
