"""Which engines are found, and which are refused: keys, seals, damage, other machines, two processes at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attri.runtime.engines.tensorrt import cache
from attri.runtime.engines.tensorrt.cache import EngineCache, EngineKey, Machine, fits
from attri.runtime.errors import EngineError

ORIN = Machine("10.3.0", "Orin", "8.7", "aarch64 Tegra")
THOR = Machine("10.16.1.11", "NVIDIA Thor", "11.0", "aarch64 Tegra")
KEY = EngineKey("vision", "a" * 64, ORIN, "fp16", {"B": (1, 1, 4)})
PLAN = bytes(range(256)) * 10


@pytest.fixture
def store(tmp_path):
    (tmp_path / "engines").mkdir()
    return EngineCache(tmp_path / "engines")


def find(store, machine=ORIN, **more):
    return store.find(KEY.name, KEY.graph, machine, **more)


def test_what_was_kept_is_found_with_all_that_it_is(store):
    store.save(KEY, PLAN, {"parity": {"image features": 0.9999}})
    plan = find(store)
    assert plan.data == PLAN
    assert plan.key == KEY
    assert plan.figures == {"parity": {"image features": 0.9999}}
    assert sorted(file.suffix for file in store.folder.iterdir()) == [".json", ".plan"]
    record = json.loads(plan.path.with_suffix(".json").read_text())
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
def test_nothing_is_found_where_anything_differs(store, change):
    store.save(dataclasses.replace(KEY, **change), PLAN, {})
    assert find(store) is None


def test_every_part_of_the_key_is_in_its_digest():
    changes = [
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


def test_the_newest_is_found_or_the_one_that_is_asked_for(store):
    larger = dataclasses.replace(KEY, ranges={"B": (1, 1, 8)})
    store.save(larger, PLAN + b"8", {})
    store.save(KEY, PLAN + b"4", {})
    assert find(store).key == KEY
    assert find(store, digest=larger.digest).key == larger
    assert find(store, digest=dataclasses.replace(KEY, precision="fp32").digest) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: plan.path.write_bytes(PLAN[:-1]), "is damaged; this is TensorRT 10.3.0 on Orin"),
        (lambda plan: plan.path.unlink(), "cannot be read"),
        (lambda plan: plan.path.with_suffix(".json").write_text("{"), "is damaged"),
        (lambda plan: plan.path.with_suffix(".json").write_text("[]"), "is damaged"),
        (lambda plan: plan.path.with_suffix(".json").write_text('{"schema": 1}'), "is damaged"),
        (lambda plan: plan.path.with_suffix(".json").write_bytes(b"\xff"), "is damaged"),
    ],
)
def test_a_damaged_engine_is_an_error_until_it_is_rebuilt(store, damage, message):
    damage(store.save(KEY, PLAN, {}))
    with pytest.raises(EngineError, match=message) as error:
        find(store)
    assert "--rebuild-engines makes a new one" in str(error.value)
    rebuilt = dataclasses.replace(KEY, ranges={"B": (1, 1, 8)})
    store.save(rebuilt, PLAN, {})
    store.keep_only(rebuilt)
    assert find(store).key == rebuilt
    assert len([*store.folder.glob("*.json")]) == 1


def test_what_was_verified_is_what_is_loaded(store):
    found_in = store.save(KEY, PLAN, {}).path
    plan = find(store)
    found_in.write_bytes(b"another engine")
    assert plan.data == PLAN


def test_what_a_manifest_lists_is_what_was_verified(store):
    portable = dataclasses.replace(KEY, hardware_compatible=True)
    file = store.save(portable, PLAN, {}).path
    record = file.with_suffix(".json").read_bytes()
    listed = store.portable()
    assert listed == {
        each.name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for each, data in ((file, PLAN), (file.with_suffix(".json"), record))
    }
    file.write_bytes(b"another engine")
    assert store.portable() == {}


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


def find_or_refuse(store):
    """What is found, or None where the error says what to do."""
    try:
        return find(store)
    except EngineError as error:
        message = str(error)
    assert "--rebuild-engines makes a new one" in message
    return None


GONE = object()
ODD = [GONE, None, True, -1, 0.5, 10**30, "", "10", ".", "10.3.0", "²", "9" * 5000, "\u00e9", "\ud800", "\x1b[2J"]
ODD += [[], [1], {}, {"x": 1}, {"x": [1, 2, 3]}]


def test_a_record_with_a_wrong_value_anywhere_is_damaged_or_fits_nowhere(store):
    portable = dataclasses.replace(KEY, hardware_compatible=True, version_compatible=True)
    file = store.save(portable, PLAN, {"parity": {"image features": 0.9999}}).path.with_suffix(".json")
    whole = json.loads(file.read_text())
    assert find(store) is not None
    for at in paths(whole):
        for odd in ODD if at else ODD[1:]:
            record = changed(whole, at, odd)
            file.write_text(json.dumps(record))
            if record == whole:
                continue
            assert find_or_refuse(store) is None
            assert all(machine.isprintable() for machine in store.foreign("vision", THOR))
            assert store.portable() == {}
    store.keep_only(portable)


@settings(deadline=None)  # it syncs files to the disk
@given(st.data())
def test_a_record_with_damaged_bytes_is_never_a_bug(tmp_path_factory, data):
    store = EngineCache(tmp_path_factory.mktemp("engines"))
    file = store.save(KEY, PLAN, {}).path.with_suffix(".json")
    text = file.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    damaged = text[:start] + data.draw(st.binary(max_size=8)) + text[end:]
    file.write_bytes(damaged)
    assert find_or_refuse(store) is None or json.loads(damaged) == json.loads(text)
    store.foreign("vision", THOR)
    store.keep_only(KEY)


@pytest.mark.parametrize("text", ['{"x":' * 100_000, "[" * 100_000], ids=["objects", "lists"])
def test_a_record_that_is_nested_without_end_is_damaged(store, text):
    file = store.save(KEY, PLAN, {}).path.with_suffix(".json")
    file.write_text(text)
    with pytest.raises(EngineError, match="is damaged"):
        find(store)


def test_a_damaged_record_of_another_graph_is_not_this_ones(store):
    other = store.save(dataclasses.replace(KEY, name="vision.s8"), PLAN, {}).path.with_suffix(".json")
    other.write_text("{")
    assert find(store) is None
    store.keep_only(KEY)
    assert other.exists()


def test_an_engine_of_another_machine_of_the_same_kind_is_refused(store, tmp_path, monkeypatch):
    store.save(KEY, PLAN, {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other machine"))
    with pytest.raises(EngineError, match="was not built on this machine by this user, and plans are code"):
        find(store)


def test_a_forged_record_is_refused(store):
    file = store.save(KEY, PLAN, {}).path
    evil = b"evil" + PLAN
    file.write_bytes(evil)
    record = json.loads(file.with_suffix(".json").read_text())
    record["plan"] = {"size": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    file.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="plans are code"):
        find(store)
    del record["seal"]
    file.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="plans are code"):
        find(store)


def test_what_the_manifest_lists_is_taken(store, tmp_path, monkeypatch):
    file = store.save(KEY, PLAN, {}).path
    listed = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in (file, file.with_suffix(".json"))}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other machine"))
    assert find(EngineCache(store.folder, listed)).data == PLAN
    for wrong in ({file.name: listed[file.name]}, listed | {file.name: "0" * 64}):
        with pytest.raises(EngineError, match="plans are code"):
            find(EngineCache(store.folder, wrong))


def test_the_key_is_of_the_user_alone(store, tmp_path):
    store.save(KEY, PLAN, {})
    (key,) = (tmp_path / "state" / "attri").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32


def test_a_key_that_is_cut_short_seals_nothing(store, tmp_path):
    store.save(KEY, PLAN, {})
    (key,) = (tmp_path / "state" / "attri").iterdir()
    key.write_bytes(b"")
    with pytest.raises(EngineError, match=r"plans.key is damaged, it has 0 of 32 bytes: delete it"):
        find(store)
    with pytest.raises(EngineError, match="delete it"):
        store.save(KEY, PLAN, {})


def test_no_place_for_the_key_is_one_line(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="point XDG_STATE_HOME to a folder that can be written"):
        store.save(KEY, PLAN, {})


def test_which_machines_a_portable_plan_fits():
    newer = dataclasses.replace(ORIN, tensorrt="10.16.1.11")
    older = dataclasses.replace(ORIN, tensorrt="10.0.1")
    next_major = dataclasses.replace(ORIN, tensorrt="11.4.0.106")
    version = dataclasses.replace(KEY, version_compatible=True)
    assert [fits(version, machine) for machine in (ORIN, newer, older, next_major)] == [True, True, False, False]
    hardware = dataclasses.replace(KEY, hardware_compatible=True)
    same_version = dataclasses.replace(THOR, tensorrt=ORIN.tensorrt)
    xavier = dataclasses.replace(ORIN, gpu="Xavier", capability="7.2")
    assert [fits(hardware, machine) for machine in (ORIN, same_version, THOR, xavier)] == [True, True, False, False]
    assert not fits(KEY, same_version)
    workstation = Machine("10.3.0", "NVIDIA RTX A6000", "8.6", "x86_64")
    portable = dataclasses.replace(hardware, version_compatible=True, machine=workstation)
    elsewhere = dataclasses.replace(workstation, gpu="NVIDIA L4", capability="8.9")
    assert [fits(portable, machine) for machine in (elsewhere, ORIN)] == [True, False]


def test_a_record_of_before_machines_had_a_system_fits_nowhere(store):
    file = store.save(KEY, PLAN, {}).path.with_suffix(".json")
    record = json.loads(file.read_text())
    del record["key"]["machine"]["system"]
    file.write_text(json.dumps(record))
    assert find(store) is None
    (machine,) = store.foreign("vision", ORIN)
    assert machine == "TensorRT 10.3.0 on Orin (compute capability 8.7, unknown system)"


def test_machines_that_have_engines_here(store):
    store.save(KEY, PLAN, {})
    store.save(dataclasses.replace(KEY, machine=THOR), PLAN, {})
    assert store.foreign("vision", ORIN) == [
        "TensorRT 10.16.1.11 on NVIDIA Thor (compute capability 11.0, aarch64 Tegra)"
    ]


def test_others_stay_beside_the_one_that_is_kept(store):
    for change in ({}, {"machine": THOR}, {"graph": "b" * 64}, {"ranges": {"B": (1, 1, 8)}}):
        store.save(dataclasses.replace(KEY, **change), PLAN, {})
    store.keep_only(KEY)
    left = {file.name.split(".")[1] for file in store.folder.iterdir()}
    others = [dataclasses.replace(KEY, machine=THOR), dataclasses.replace(KEY, graph="b" * 64)]
    assert left == {KEY.digest, *(key.digest for key in others)}


@pytest.mark.parametrize("written", [0, 1], ids=["plan", "json"])
@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_leaves_what_was_there(store, monkeypatch, written, before):
    if before:
        store.save(KEY, PLAN, {})
    sync, done = os.fsync, []

    def full(number):
        if len(done) == written:
            raise OSError(28, "No space left on device")
        done.append(sync(number))

    cache._mac(b"")  # the key is made
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"cannot write to .*: No space left on device"):
        store.save(KEY, PLAN + b"more", {})
    assert find(store).data == PLAN if before else find(store) is None
    assert not [file for file in store.folder.iterdir() if file.name.startswith(".")]


def test_files_are_on_the_disk_before_they_take_their_names(store, monkeypatch):
    told, sync, replace, link = [], os.fsync, Path.replace, os.link
    monkeypatch.setattr(os, "fsync", lambda number: told.append("sync") or sync(number))
    monkeypatch.setattr(Path, "replace", lambda self, to: told.append("name") or replace(self, to))
    monkeypatch.setattr(os, "link", lambda source, to: told.append("name") or link(source, to))
    store.save(KEY, PLAN, {})
    # The key and its folder; the engine with its record, and their folder.
    assert told == [*("sync", "name", "sync"), *("sync", "sync", "name", "name", "sync")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_bundle_names_the_option(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(EngineError, match="name a folder with --engine-dir"),
        EngineCache(tmp_path / "engines").lock(print),
    ):
        pass
    tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_made_names_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EngineError, match="name a folder with --engine-dir"),
        EngineCache(tmp_path / "file" / "engines").lock(print),
    ):
        pass


def test_two_processes_do_not_build_at_once(store):
    code = (
        "import pathlib, sys; from attri.runtime.engines.tensorrt.cache import EngineCache\n"
        "with EngineCache(pathlib.Path(sys.argv[1])).lock(print): print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        told = []

        def tell(line):
            assert other.poll() is None
            told.append(line)
            other.stdin.close()

        with store.lock(tell):
            other.wait(20)
        assert told == [f"another process builds engines in {store.folder}: waiting for it"]


def test_the_timing_cache_is_kept_by_machine_and_only_ours_is_read(store, tmp_path, monkeypatch):
    store.save_timing_cache(ORIN, b"times")
    assert store.timing_cache(ORIN) == b"times"
    assert store.timing_cache(THOR) == b""
    shutil.copytree(store.folder, tmp_path / "copy")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other machine"))
    assert EngineCache(tmp_path / "copy").timing_cache(ORIN) == b""
