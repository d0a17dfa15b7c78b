"""The bundle on disk: whatever is wrong with it, one line says so before anything in it is used."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.manifests import edit_manifest as edit
from support.manifests import set_manifest, set_prompt

from attri.runtime.bundle import (
    EMBEDDING,
    FILES,
    MANIFEST,
    PROMPT,
    SCHEMA,
    TEXT,
    VISION,
    Bundle,
    file_entry,
    read_manifest,
    save_manifest,
)
from attri.runtime.engines.verify import read_reference
from attri.runtime.errors import BundleError

RESIZED = {"resize": "shortest", "interpolation": "bicubic"}


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.open(path)
    message = str(error.value)
    assert "\n" not in message
    assert error.value.exit_code == 1
    return message


def test_opens_and_says_what_the_model_is(bundle: Path) -> None:
    opened = Bundle.open(str(bundle))
    assert opened.prompt.facts.labels == ["red apple", "bird", "a small house"]
    assert set(opened.manifest.files) == {file.name for file in bundle.iterdir()} - {MANIFEST, PROMPT}
    assert set(opened.manifest.files) == {*FILES, "parity.json", "report.html"}
    assert json.loads(opened.manifest.to_json()) == json.loads((bundle / MANIFEST).read_text())


def test_opens_through_a_link_to_the_folder(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    assert Bundle.open(tmp_path / "link").manifest == Bundle.open(bundle).manifest


def test_the_token_embedding_is_mapped_and_not_read(bundle: Path) -> None:
    table = Bundle.open(bundle).token_embedding()
    assert isinstance(table, np.memmap)
    assert not table.flags.writeable
    assert Path(table.filename).samefile(bundle / EMBEDDING)


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


SHAPE = {"depth": 2, "retrieved": 4, "clusters": 2, "topk": 2, "prompt_length": 1, "static_tokens": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "int4"},
        {"image": {}},
        {"image": {"size": 64, "mean": [0.5], "std": [1, 1, 1], **RESIZED}},
        {"image": {"size": 63.5, "mean": [0.5] * 3, "std": [1] * 3, **RESIZED}},
        {"image": {"size": True, "mean": [0.5] * 3, "std": [1] * 3, **RESIZED}},
        {"image": {"size": 64, "mean": ["0.5"] * 3, "std": [1] * 3, **RESIZED}},
        {"image": {"size": 64, "mean": [float("nan")] * 3, "std": [1] * 3, **RESIZED}},
        {"image": {"size": 64, "mean": [0.5] * 3, "std": [1, 0, 1], **RESIZED}},
        {"image": {"size": 64, "mean": [0.5] * 3, "std": [1] * 3}},
        {"image": {"size": 64, "mean": [0.5] * 3, "std": [1] * 3, **RESIZED, "resize": "longest"}},
        {"image": {"size": 64, "mean": [0.5] * 3, "std": [1] * 3, **RESIZED, "interpolation": ["bicubic"]}},
        {"image": {"size": 64, "mean": [0.5] * 3, "std": [1] * 3, **RESIZED, "crop": 1}},
        {"text": {}},
        {"text": {"context_length": 7.5}},
        {"retrieval": SHAPE | {"depth": 2.5}},
        {"retrieval": SHAPE | {"static_tokens": None}},
        {"retrieval": {"depth": 2}},
        {"model": {"name": "pocket"}},
        {"model": []},
        {"arithmetic": None},
        {"parity": "passed"},
        {"text": []},
        {"logit_scale": "100"},
        {"logit_scale": float("nan")},
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


@pytest.mark.parametrize(
    "change",
    [{"logit_scale": 7.5}, {"precision": "fp16"}, {"created": "yesterday"}],
    ids=str,
)
def test_a_manifest_that_was_edited_by_hand_is_refused(copy: Path, change: dict[str, object]) -> None:
    raw = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(raw | change))
    assert "manifest.json is not the one that was exported (sha256 differs)" in refused(copy)


def test_an_edited_mean_is_refused(copy: Path) -> None:
    file = copy / MANIFEST
    raw = json.loads(file.read_text())
    raw["image"]["mean"][0] += 0.01
    file.write_text(json.dumps(raw))
    assert "sha256 differs" in refused(copy)


def test_a_manifest_without_its_hash_is_of_an_older_attri(copy: Path) -> None:
    raw = json.loads((copy / MANIFEST).read_text())
    del raw["sha256"]
    (copy / MANIFEST).write_text(json.dumps(raw))
    assert "missing or unknown fields (sha256): export the bundle again" in refused(copy)


def test_the_layout_of_a_manifest_is_free(copy: Path) -> None:
    """A formatter changes no field, so the hash of the fields stays right."""
    raw = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(dict(reversed(raw.items())), ensure_ascii=True, indent=8))
    Bundle.open(copy)


def test_a_manifest_that_is_saved_again_opens(copy: Path) -> None:
    save_manifest(dataclasses.replace(Bundle.open(copy).manifest, parity={"Äpfel": "\u2028"}), copy)
    assert Bundle.open(copy).manifest.parity == {"Äpfel": "\u2028"}


def test_a_file_that_is_replaced_after_opening_is_not_read(copy: Path) -> None:
    opened = Bundle.open(copy)
    before = {name: (copy / name).read_bytes() for name in FILES}
    for name in FILES:
        (copy / "new").write_bytes(b"something else")
        (copy / "new").replace(copy / name)
    for name in FILES:
        assert opened.file(name).read_bytes() == before[name]
    assert opened.token_embedding().tobytes() == np.load(io.BytesIO(before[EMBEDDING])).tobytes()


def test_a_folder_that_is_deleted_after_opening_is_read_whole(copy: Path, bundle: Path) -> None:
    opened = Bundle.open(copy)
    shutil.rmtree(copy)
    assert opened.graph(VISION).read_bytes() == (bundle / VISION).read_bytes()
    assert len(read_reference(opened).pixels)


def test_a_manifest_is_saved_to_the_folder_that_was_opened(copy: Path, tmp_path: Path) -> None:
    """What was replaced meanwhile is another bundle's."""
    opened = Bundle.open(copy)
    copy.rename(tmp_path / "old")
    (tmp_path / "copy").mkdir()
    save_manifest(dataclasses.replace(opened.manifest, parity={"cat": 1}), opened.folder)
    assert not list((tmp_path / "copy").iterdir())
    assert Bundle.open(tmp_path / "old").manifest.parity == {"cat": 1}


def test_a_file_that_is_written_to_in_place_is_told(copy: Path) -> None:
    opened = Bundle.open(copy)
    opened.require_unchanged()
    with (copy / TEXT).open("r+b") as file:
        file.write(b"another graph")
    os.utime(copy / TEXT, ns=(0, 0))  # also where the clock of the file system is coarse
    with pytest.raises(BundleError, match=r"was written to while it was read \(text.onnx\): start again"):
        opened.require_unchanged()


def test_a_closed_bundle_is_not_read(copy: Path) -> None:
    with Bundle.open(copy) as opened:
        pass
    with pytest.raises(ValueError, match="closed"):
        opened.file(TEXT)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.stress
def test_no_descriptors_are_left(copy: Path) -> None:
    Bundle.open(copy)
    before = descriptors()
    for _ in range(20):
        Bundle.open(copy)  # goes with its last reference
        Bundle.open(copy).close()
    (copy / TEXT).write_bytes(b"torn")
    for _ in range(20):
        refused(copy)
    assert descriptors() == before


def test_a_pipe_in_the_place_of_a_file_does_not_block(copy: Path) -> None:
    (copy / TEXT).unlink()
    os.mkfifo(copy / TEXT)
    assert "'text.onnx' cannot be read" in refused(copy)


SWAP = """
import itertools, os, sys, time
path, *others = sys.argv[1:]
print(flush=True)
for number in itertools.count():  # as `attri.export.bundle.writer.replace_dir` does it, with three folders in turn
    os.rename(path, others[1])
    os.rename(others[0], path)
    others.reverse()
    time.sleep(0.002)
"""


def test_a_bundle_that_is_swapped_all_the_time_opens_whole(bundle: Path, tmp_path: Path) -> None:
    """Two bundles whose files differ in every name take turns: what opens is one of them, from first to last."""
    paths = [tmp_path / name for name in ("bundle", "next", "old")]
    for path, mark in zip(paths[:2], (b"one", b"two"), strict=True):
        shutil.copytree(bundle, path)
        for name in FILES:
            (path / name).write_bytes(mark + name.encode())
        files = {name: file_entry(path / name) for name in FILES}
        set_manifest(path, files=files)
        set_prompt(path, labels=[mark.decode()], base=read_manifest(path).base)
    seen = set()
    with subprocess.Popen([sys.executable, "-c", SWAP, *map(str, paths)], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        for _ in range(300):
            with Bundle.open(paths[0]) as opened:
                (label,) = opened.prompt.facts.labels
                assert {opened.file(name).read_bytes() for name in FILES} == {
                    label.encode() + name.encode() for name in FILES
                }
                seen.add(label)
        assert swapper.poll() is None
        swapper.kill()
    assert seen == {"one", "two"}


def test_a_link_that_leads_outside(copy: Path, tmp_path: Path) -> None:
    (copy / TEXT).rename(tmp_path / TEXT)
    (copy / TEXT).symlink_to(tmp_path / TEXT)
    assert "'text.onnx' is a link, which may lead outside itself" in refused(copy)


@pytest.mark.parametrize("name", ["with\0nul", "two\nlines", "", "loop"])
def test_odd_names(copy: Path, name: str) -> None:
    (copy / "loop").symlink_to(copy / "loop")
    edit(copy, lambda raw: raw["files"].update({name: {"size": 0, "sha256": ""}}))
    assert repr(name) in refused(copy)
