"""The engine cache: which engines it finds and which it refuses; keys, seals, damage, other machines, locks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attri.runtime.engines.tensorrt.cache import EngineCache
from attri.runtime.engines.tensorrt.keys import EngineKey, Machine, is_compatible
from attri.runtime.engines.tensorrt.trust import mac
from attri.runtime.errors import EngineError

ORIN = Machine("10.3.0", "Orin", "8.7", "aarch64 Tegra")
THOR = Machine("10.16.1.11", "NVIDIA Thor", "11.0", "aarch64 Tegra")
KEY = EngineKey("vision", "a" * 64, ORIN, "fp16", {"B": (1, 1, 4)})
ENGINE = bytes(range(256)) * 10


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "engines").mkdir()
    return EngineCache(tmp_path / "engines")


def find(cache, machine=ORIN, **more):
    return cache.find(KEY.name, KEY.graph, machine, **more)


def test_find_returns_what_save_kept(cache):
    cache.save(KEY, ENGINE, {"parity": {"image features": 0.9999}})
    cached = find(cache)
    assert cached.serialized == ENGINE
    assert cached.key == KEY
    assert cached.figures == {"parity": {"image features": 0.9999}}
    assert sorted(file.suffix for file in cache.folder.iterdir()) == [".json", ".plan"]
    record = json.loads(cached.path.with_suffix(".json").read_text())
    assert record["key"] == {
        "name": "vision",
        "graph": "a" * 64,
        "machine": {"tensorrt": "10.3.0", "gpu": "Orin", "capability": "8.7", "system": "aarch64 Tegra"},
        "precision": "fp16",
        "ranges": {"B": [1, 1, 4]},
        "hardware_compatible": False,
        "version_compatible": False,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"name": "text"},
        {"graph": "b" * 64},
        {"machine": dataclasses.replace(ORIN, tensorrt="10.3.1")},
        {"machine": dataclasses.replace(ORIN, gpu="Xavier")},
        {"machine": dataclasses.replace(ORIN, capability="7.2")},
        {"machine": dataclasses.replace(ORIN, system="aarch64")},
    ],
    ids=str,
)
def test_find_returns_none_if_anything_differs(cache, change):
    cache.save(dataclasses.replace(KEY, **change), ENGINE, {})
    assert find(cache) is None


def test_key_digest_depends_on_every_field():
    changes: list[dict[str, Any]] = [
        {"name": "text"},
        {"graph": "b" * 64},
        {"machine": THOR},
        {"precision": "fp32"},
        {"ranges": {"B": (1, 1, 8)}},
        {"hardware_compatible": True},
        {"version_compatible": True},
    ]
    assert {next(iter(change)) for change in changes} == {field.name for field in dataclasses.fields(EngineKey)}
    assert len({KEY.digest, *(dataclasses.replace(KEY, **change).digest for change in changes)}) == len(changes) + 1


def test_find_takes_the_newest_or_the_one_with_the_digest(cache):
    larger = dataclasses.replace(KEY, ranges={"B": (1, 1, 8)})
    cache.save(larger, ENGINE + b"8", {})
    cache.save(KEY, ENGINE + b"4", {})
    assert find(cache).key == KEY
    assert find(cache, digest=larger.digest).key == larger
    assert find(cache, digest=dataclasses.replace(KEY, precision="fp32").digest) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda cached: cached.path.write_bytes(ENGINE[:-1]), "is damaged; this is TensorRT 10.3.0 on Orin"),
        (lambda cached: cached.path.unlink(), "cannot be read"),
        (lambda cached: cached.path.with_suffix(".json").write_text("{"), "is damaged"),
        (lambda cached: cached.path.with_suffix(".json").write_text("[]"), "is damaged"),
        (lambda cached: cached.path.with_suffix(".json").write_text('{"schema": 1}'), "is damaged"),
        (lambda cached: cached.path.with_suffix(".json").write_bytes(b"\xff"), "is damaged"),
    ],
)
def test_find_refuses_a_damaged_engine_until_it_is_rebuilt(cache, damage, message):
    damage(cache.save(KEY, ENGINE, {}))
    with pytest.raises(EngineError, match=message) as error:
        find(cache)
    assert "`rebuild_engines` makes a new one" in str(error.value)
    rebuilt = dataclasses.replace(KEY, ranges={"B": (1, 1, 8)})
    cache.save(rebuilt, ENGINE, {})
    cache.evict_others(rebuilt)
    assert find(cache).key == rebuilt
    assert len([*cache.folder.glob("*.json")]) == 1


def test_find_returns_the_bytes_that_it_verified(cache):
    found_in = cache.save(KEY, ENGINE, {}).path
    cached = find(cache)
    found_in.write_bytes(b"another engine")
    assert cached.serialized == ENGINE


def test_portable_files_are_those_that_were_verified(cache):
    portable = dataclasses.replace(KEY, hardware_compatible=True)
    file = cache.save(portable, ENGINE, {}).path
    record = file.with_suffix(".json").read_bytes()
    listed = cache.portable_files()
    assert listed == {
        each.name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for each, data in ((file, ENGINE), (file.with_suffix(".json"), record))
    }
    file.write_bytes(b"another engine")
    assert cache.portable_files() == {}


def paths(value, at=()):
    """Every place in a JSON document."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*at, key))


def changed(record, at, change):
    """A copy with another value at that place; without it, where `change` is GONE."""
    if not at:
        return change
    copy = json.loads(json.dumps(record))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    if change is GONE:
        del inner[at[-1]]
    else:
        inner[at[-1]] = change
    return copy


def find_or_refuse(cache):
    """What is found, or None where the error says what to do."""
    try:
        return find(cache)
    except EngineError as error:
        message = str(error)
    assert "`rebuild_engines` makes a new one" in message
    return None


GONE = object()
ODD = [GONE, None, True, -1, 0.5, 10**30, "", "10", ".", "10.3.0", "²", "9" * 5000, "\u00e9", "\ud800", "\x1b[2J"]
ODD += [[], [1], {}, {"x": 1}, {"x": [1, 2, 3]}]


def test_record_with_a_wrong_value_anywhere_is_damaged_or_compatible_with_nothing(cache):
    portable = dataclasses.replace(KEY, hardware_compatible=True, version_compatible=True)
    file = cache.save(portable, ENGINE, {"parity": {"image features": 0.9999}}).path.with_suffix(".json")
    whole = json.loads(file.read_text())
    assert find(cache) is not None
    for at in paths(whole):
        for odd in ODD if at else ODD[1:]:
            record = changed(whole, at, odd)
            file.write_text(json.dumps(record))
            if record == whole:
                continue
            assert find_or_refuse(cache) is None
            assert all(machine.isprintable() for machine in cache.other_machines("vision", THOR))
            assert cache.portable_files() == {}
    cache.evict_others(portable)


@settings(deadline=None)  # it syncs files to the disk
@given(st.data())
def test_record_with_damaged_bytes_raises_nothing_but_engine_errors(tmp_path_factory, data):
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    file = cache.save(KEY, ENGINE, {}).path.with_suffix(".json")
    text = file.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    damaged = text[:start] + data.draw(st.binary(max_size=8)) + text[end:]
    file.write_bytes(damaged)
    assert find_or_refuse(cache) is None or json.loads(damaged) == json.loads(text)
    cache.other_machines("vision", THOR)
    cache.evict_others(KEY)


@pytest.mark.parametrize("text", ['{"x":' * 100_000, "[" * 100_000], ids=["objects", "lists"])
def test_record_that_is_nested_too_deeply_is_damaged(cache, text):
    file = cache.save(KEY, ENGINE, {}).path.with_suffix(".json")
    file.write_text(text)
    with pytest.raises(EngineError, match="is damaged"):
        find(cache)


def test_find_ignores_a_damaged_record_of_another_graph(cache):
    other = cache.save(dataclasses.replace(KEY, name="vision.s8"), ENGINE, {}).path.with_suffix(".json")
    other.write_text("{")
    assert find(cache) is None
    cache.evict_others(KEY)
    assert other.exists()


def test_find_refuses_an_engine_copied_from_an_equal_machine(cache, tmp_path, monkeypatch):
    cache.save(KEY, ENGINE, {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other machine"))
    with pytest.raises(EngineError, match="was not built on this machine by this user, and engines are code"):
        find(cache)


def test_find_refuses_a_forged_record(cache):
    file = cache.save(KEY, ENGINE, {}).path
    evil = b"evil" + ENGINE
    file.write_bytes(evil)
    record = json.loads(file.with_suffix(".json").read_text())
    record["engine"] = {"size": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    file.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="engines are code"):
        find(cache)
    del record["seal"]
    file.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="engines are code"):
        find(cache)


def test_find_takes_an_engine_whose_files_the_manifest_lists(cache, tmp_path, monkeypatch):
    file = cache.save(KEY, ENGINE, {}).path
    listed = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in (file, file.with_suffix(".json"))}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other machine"))
    assert find(EngineCache(cache.folder, listed)).serialized == ENGINE
    for wrong in ({file.name: listed[file.name]}, listed | {file.name: "0" * 64}):
        with pytest.raises(EngineError, match="engines are code"):
            find(EngineCache(cache.folder, wrong))


def test_secret_is_readable_by_its_user_alone(cache, tmp_path):
    cache.save(KEY, ENGINE, {})
    (key,) = (tmp_path / "state" / "attri").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32


def test_secret_that_is_cut_short_seals_nothing(cache, tmp_path):
    cache.save(KEY, ENGINE, {})
    (key,) = (tmp_path / "state" / "attri").iterdir()
    key.write_bytes(b"")
    with pytest.raises(EngineError, match=r"engines.key is damaged, it has 0 of 32 bytes: delete it"):
        find(cache)
    with pytest.raises(EngineError, match="delete it"):
        cache.save(KEY, ENGINE, {})


def test_secret_that_cannot_be_kept_names_the_variable_to_set(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="point XDG_STATE_HOME to a folder that can be written"):
        cache.save(KEY, ENGINE, {})


def test_is_compatible_follows_the_portability_of_an_engine():
    newer = dataclasses.replace(ORIN, tensorrt="10.16.1.11")
    older = dataclasses.replace(ORIN, tensorrt="10.0.1")
    next_major = dataclasses.replace(ORIN, tensorrt="11.4.0.106")
    version = dataclasses.replace(KEY, version_compatible=True)
    assert [is_compatible(version, machine) for machine in (ORIN, newer, older, next_major)] == [
        True,
        True,
        False,
        False,
    ]
    hardware = dataclasses.replace(KEY, hardware_compatible=True)
    same_version = dataclasses.replace(THOR, tensorrt=ORIN.tensorrt)
    xavier = dataclasses.replace(ORIN, gpu="Xavier", capability="7.2")
    assert [is_compatible(hardware, machine) for machine in (ORIN, same_version, THOR, xavier)] == [
        True,
        True,
        False,
        False,
    ]
    assert not is_compatible(KEY, same_version)
    workstation = Machine("10.3.0", "NVIDIA RTX A6000", "8.6", "x86_64")
    portable = dataclasses.replace(hardware, version_compatible=True, machine=workstation)
    elsewhere = dataclasses.replace(workstation, gpu="NVIDIA L4", capability="8.9")
    assert [is_compatible(portable, machine) for machine in (elsewhere, ORIN)] == [True, False]


def test_other_machines_are_named(cache):
    cache.save(KEY, ENGINE, {})
    cache.save(dataclasses.replace(KEY, machine=THOR), ENGINE, {})
    assert cache.other_machines("vision", ORIN) == [
        "TensorRT 10.16.1.11 on NVIDIA Thor (compute capability 11.0, aarch64 Tegra)"
    ]


def test_evict_others_leaves_engines_of_other_graphs_and_machines(cache):
    for change in ({}, {"machine": THOR}, {"graph": "b" * 64}, {"ranges": {"B": (1, 1, 8)}}):
        cache.save(dataclasses.replace(KEY, **change), ENGINE, {})
    cache.evict_others(KEY)
    left = {file.name.split(".")[1] for file in cache.folder.iterdir()}
    others = [dataclasses.replace(KEY, machine=THOR), dataclasses.replace(KEY, graph="b" * 64)]
    assert left == {KEY.digest, *(key.digest for key in others)}


@pytest.mark.parametrize("written", [0, 1], ids=["engine", "record"])
@pytest.mark.parametrize("before", [False, True])
def test_save_on_a_full_disk_leaves_what_was_there(cache, monkeypatch, written, before):
    if before:
        cache.save(KEY, ENGINE, {})
    sync, done = os.fsync, []

    def full(number):
        if len(done) == written:
            raise OSError(28, "No space left on device")
        done.append(sync(number))

    mac(b"")  # the key is made
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"cannot write to .*: No space left on device"):
        cache.save(KEY, ENGINE + b"more", {})
    assert find(cache).serialized == ENGINE if before else find(cache) is None
    assert not [file for file in cache.folder.iterdir() if file.name.startswith(".")]


def test_save_puts_files_on_the_disk_before_it_names_them(cache, monkeypatch):
    told, sync, replace, link = [], os.fsync, Path.replace, os.link
    monkeypatch.setattr(os, "fsync", lambda number: told.append("sync") or sync(number))
    monkeypatch.setattr(Path, "replace", lambda self, to: told.append("name") or replace(self, to))
    monkeypatch.setattr(os, "link", lambda source, to: told.append("name") or link(source, to))
    cache.save(KEY, ENGINE, {})
    # The key and its folder; the engine with its record, and their folder.
    assert told == [*("sync", "name", "sync"), *("sync", "sync", "name", "name", "sync")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_lock_in_a_read_only_bundle_names_the_parameter(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(EngineError, match="name another folder as `engine_dir`"),
        EngineCache(tmp_path / "engines").lock(print),
    ):
        pass
    tmp_path.chmod(0o700)


def test_lock_of_a_folder_that_cannot_be_made_names_the_parameter(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EngineError, match="name another folder as `engine_dir`"),
        EngineCache(tmp_path / "file" / "engines").lock(print),
    ):
        pass


def test_lock_is_held_by_one_process_at_a_time(cache):
    code = (
        "import pathlib, sys; from attri.runtime.engines.tensorrt.cache import EngineCache\n"
        "with EngineCache(pathlib.Path(sys.argv[1])).lock(print): print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(cache.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        told = []

        def progress(line):
            assert other.poll() is None
            told.append(line)
            other.stdin.close()

        with cache.lock(progress):
            other.wait(20)
        assert told == [f"another process builds engines in {cache.folder}: waiting for it"]


def test_timing_cache_is_kept_by_machine_and_read_only_where_it_was_made(cache, tmp_path, monkeypatch):
    cache.save_timing_cache(ORIN, b"times")
    assert cache.timing_cache(ORIN) == b"times"
    assert cache.timing_cache(THOR) == b""
    shutil.copytree(cache.folder, tmp_path / "copy")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other machine"))
    assert EngineCache(tmp_path / "copy").timing_cache(ORIN) == b""
