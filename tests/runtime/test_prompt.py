"""The prompt file: what is written is read, and whatever is wrong with a file is one line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_prompt import BASE, D, L, N, P, W, make_prompt

from attri.runtime.errors import BundleError
from attri.runtime.prompt import PROMPT_SCHEMA, Prompt
from attri.runtime.prompt_file.tensor_file import pack, unpack


def refused(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        Prompt.parse(data, "a.attri")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("static", [False, True])
def test_what_is_saved_is_read(tmp_path: Path, static: bool) -> None:
    attracts = [[["cat"], [], ["dög", "cat"], [], []], [[]] * N]
    prompt = make_prompt(static=static, temperature=0.7, threshold=0.25, source={"run": "first"}, attracts=attracts)
    prompt.save(tmp_path / "a.attri")
    again = Prompt.read(tmp_path / "a.attri")
    assert again.facts == prompt.facts
    assert again.digest == prompt.digest
    assert again.tensors.keys() == prompt.tensors.keys()
    for name, tensor in prompt.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
        assert not again.tensors[name].flags.writeable  # engines may keep what does not change
    assert again.entries == N


def test_what_is_not_known_is_no_field_of_the_file() -> None:
    _, metadata = unpack(make_prompt().to_bytes())
    optional = {"attracts", "independent", "training_images"}
    assert optional.isdisjoint(json.loads(metadata["attri"]))  # as files of older versions
    assert Prompt.parse(make_prompt().to_bytes()).facts.attracts is None


def test_equal_prompts_give_equal_bytes() -> None:
    assert make_prompt().to_bytes() == make_prompt().to_bytes()
    assert make_prompt(labels=["a"]).digest != make_prompt(labels=["b"]).digest


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_anywhere_is_one_line(data: st.DataObject) -> None:
    whole = make_prompt().to_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        refused(whole[:place])
    else:
        flip = data.draw(st.integers(1, 255))
        damaged = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
        try:
            same = Prompt.parse(damaged).digest == make_prompt().digest  # a space of the padding, or the like
        except BundleError:
            refused(damaged)
        else:
            assert same


def edited(**changes: Any) -> bytes:
    """A prompt with other values, whose own hash is right."""
    return make_prompt(**changes).to_bytes()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"labels": []}, "labels"),
        ({"labels": [1]}, "labels"),
        ({"labels": "cat"}, "labels"),
        ({"template": "no place"}, "template"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"threshold": -1.0}, "threshold"),
        ({"base": []}, "base"),
        ({"parity": 3}, "parity"),
        ({"attracts": [[["cat"]] * N]}, "attracts"),
        ({"attracts": [[["cat"]] * N, [["cat"]] * (N - 1)]}, "attracts"),
        ({"attracts": [[["cat"]] * N, [[1]] * N]}, "attracts"),
        ({"attracts": [["cat"] * N] * L}, "attracts"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(changes: dict[str, Any], name: str) -> None:
    assert f"unusable values ({name})" in refused(edited(**changes))


def with_tensors(**changes: Any) -> bytes:
    prompt = make_prompt()
    tensors = {name: value for name, value in {**prompt.tensors, **changes}.items() if value is not None}
    return Prompt.of(prompt.facts, tensors).to_bytes()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"keys": None}, "shapes"),
        ({"prompt_table": None}, "shapes"),
        ({"else": np.zeros(1)}, "shapes"),
        ({"keys": np.zeros((L, D, N + 1))}, "shapes"),
        ({"keys": np.zeros((L, N))}, "shapes"),
        ({"static_table": np.zeros((L, 1, W))}, "shapes"),
        ({"keys": np.zeros((L, D, 0)), "prompt_table": np.zeros((L, 0, P, 2 * W))}, "shapes"),
        ({"keys": np.full((L, D, N), np.nan)}, "numbers"),
        ({"prompt_table": np.full((L, N, P, 2 * W), np.inf)}, "numbers"),
    ],
)
def test_tensors_that_cannot_be_used_are_refused(changes: dict[str, Any], name: str) -> None:
    assert f"unusable values ({name})" in refused(with_tensors(**changes))


def raw_edit(change: Any) -> bytes:
    """A prompt whose metadata is changed behind its hash."""
    tensors, metadata = unpack(make_prompt().to_bytes())
    raw = json.loads(metadata["attri"])
    change(raw)
    return pack(tensors, {"attri": json.dumps(raw)})


def test_edits_behind_the_hash_are_refused() -> None:
    assert "sha256 differs" in refused(raw_edit(lambda raw: raw.update(temperature=0.5)))
    assert "sha256 differs" in refused(raw_edit(lambda raw: raw.pop("labels")))


def test_another_schema_is_named() -> None:
    assert f"has schema 9, this attri reads {PROMPT_SCHEMA}" in refused(raw_edit(lambda raw: raw.update(schema=9)))


def test_a_file_of_training_is_no_prompt_file(tmp_path: Path) -> None:
    from safetensors.numpy import save

    data = save({"pool.keys": np.zeros((1, 2), np.float32)}, {"attri": '{"format": 1}'})
    assert "no prompt file of attri" in refused(data)


@pytest.mark.parametrize("kind", ["missing", "folder", "unreadable"])
def test_a_path_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 300 if kind == "unreadable" else "a.attri")
    if kind == "folder":
        path.mkdir()
    with pytest.raises(BundleError, match="cannot be read: "):
        Prompt.read(path)


def test_a_prompt_of_another_base_says_what_differs() -> None:
    prompt = make_prompt()
    prompt.require_fit(BASE)
    with pytest.raises(BundleError, match=r"precision fp32, here fp16; depth 2, here 3\)"):
        prompt.require_fit({**BASE, "precision": "fp16", "depth": 3}, "a.attri")
    with pytest.raises(BundleError, match=r"weights 000000000000\.\.\., here 111111111111\.\.\."):
        prompt.require_fit({**BASE, "weights": "1" * 64})


def test_two_writers_leave_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "a.attri"
    prompts = [make_prompt(labels=[name]) for name in "ab"]

    def write(prompt: Prompt) -> None:
        for _ in range(20):
            prompt.save(path)

    threads = [threading.Thread(target=write, args=(prompt,)) for prompt in prompts]
    prompts[0].save(path)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert Prompt.read(path).digest in {prompt.digest for prompt in prompts}
    assert [file.name for file in tmp_path.iterdir()] == ["a.attri"]


# Writers that are killed, in a process without threads; it prints the digests that lie there after each.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from attri.runtime.prompt import Prompt
file, *others = map(Path, sys.argv[1:])
prompts = [Prompt.read(other) for other in others]
for number in range(20):
    if (writer := os.fork()) == 0:
        while True:
            for prompt in prompts:
                prompt.save(file)
    time.sleep(random.Random(number).uniform(0.001, 0.03))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    print(Prompt.read(file).digest if file.exists() else "nothing yet")
"""


def test_a_kill_at_any_point_leaves_a_whole_prompt(tmp_path: Path) -> None:
    prompts = {name: make_prompt(entries=entries) for name, entries in (("a", 3), ("b", 200))}
    for name, prompt in prompts.items():
        prompt.save(tmp_path / name)
    words = [sys.executable, "-c", KILLED, *map(str, (tmp_path / "swapped", tmp_path / "a", tmp_path / "b"))]
    found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert len(found) == 20
    assert {each.digest for each in prompts.values()} <= set(found)  # each lay there after some of the kills
    assert set(found) <= {"nothing yet", *(each.digest for each in prompts.values())}
