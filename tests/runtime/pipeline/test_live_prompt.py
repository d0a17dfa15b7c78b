"""A prompt file that is replaced while a pipeline runs: taken over whole, between two frames, or not at all."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.fakes import FakeSink

from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.decide.schedule import Schedule
from attri.runtime.errors import BundleError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.live_prompt import LivePrompt
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.prompt import Prompt


@pytest.fixture(scope="module")
def first(bundle: Path) -> Prompt:
    return Prompt.read(bundle / PROMPT)


def with_labels(prompt: Prompt, *labels: str, entries: int = 9) -> Prompt:
    """Another prompt for the same base: fewer entries, labels of its own."""
    tensors = {
        "keys": prompt.tensors["keys"][..., :entries],
        "prompt_table": prompt.tensors["prompt_table"][:, :entries],
    }
    return Prompt.of(dataclasses.replace(prompt.facts, labels=list(labels)), tensors)


@pytest.fixture
def taken() -> list[Prompt]:
    return []


@pytest.fixture
def live(first: Prompt, taken: list[Prompt], tmp_path: Path) -> LivePrompt:
    first.save(tmp_path / "a.attri")
    live = LivePrompt(tmp_path / "a.attri", first, taken.append)
    live.poll(), live.poll()
    return live


def test_a_file_that_was_there_is_not_taken_over_again(live: LivePrompt, first: Prompt, taken: list[Prompt]) -> None:
    first.save(live.path)  # written again, the same
    live.poll(), live.poll()
    assert taken == []


def test_a_new_file_is_taken_over_when_it_keeps_still(live: LivePrompt, first: Prompt, taken: list[Prompt]) -> None:
    data = with_labels(first, "cat").to_bytes()
    live.path.write_bytes(data[:1000])  # half copied
    live.poll()
    live.path.write_bytes(data)
    live.poll()
    assert taken == []
    live.poll(), live.poll()
    assert [prompt.facts.labels for prompt in taken] == [["cat"]]


def test_what_cannot_be_used_is_said_once(
    live: LivePrompt, first: Prompt, taken: list[Prompt], caplog: pytest.LogCaptureFixture
) -> None:
    live.path.write_bytes(b"no prompt")
    for _ in range(4):
        live.poll()
    (message,) = caplog.messages
    assert message.endswith("the prompt from before stays")
    live.path.unlink()
    for _ in range(4):
        live.poll()
    assert "cannot be read: No such file" in caplog.messages[-1]
    assert len(caplog.messages) == 2
    with_labels(first, "cat").save(live.path)
    live.poll(), live.poll()
    assert len(taken) == 1


def test_a_prompt_that_is_refused_may_come_again(first: Prompt, tmp_path: Path) -> None:
    """It was not taken over, so the same bytes are looked at again once they are written again."""
    tries: list[Prompt] = []

    def refuse(prompt: Prompt) -> None:
        tries.append(prompt)
        raise BundleError("it was made for another bundle")

    live = LivePrompt(tmp_path / "a.attri", first, refuse)
    for _ in range(2):
        with_labels(first, "cat").save(live.path)
        live.poll(), live.poll()
    assert len(tries) == 2


@pytest.mark.stress
def test_no_image_is_lost_or_mixed_over_many_swaps(
    bundle: Path, first: Prompt, image_files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "in").mkdir()
    for number in range(300):
        shutil.copy(image_files[number % 20], tmp_path / "in" / f"{number:03}.png")
    prompts: dict[tuple[str, ...], Prompt] = {
        labels: with_labels(first, *labels) for labels in (("cat", "dog"), ("bird", "house", "tree"))
    }
    file = tmp_path / "prompt.attri"
    first.save(file)
    classifier = Classifier.load(bundle, threads=1)
    spec = find_source(str(tmp_path / "in"))
    pipeline = Pipeline([spec], [[TaskSetup(LiveLabels(classifier, None), prompt=file)]], Schedule(), RetryPolicy())

    class Swapping(FakeSink):
        def write(self, result):
            super().write(result)
            if len(self.results) % 30 == 0:
                turn = list(prompts.values())[len(self.results) // 30 % 2]
                pipeline.set_prompt(turn)

    sink = Swapping()
    assert pipeline.run([sink])
    assert [int(Path(result.source).stem) for result in sink.results] == list(range(300))
    seen = {result.prediction.labels for result in sink.results}
    assert seen == {tuple(first.facts.labels), *prompts}
    alone = {labels: Classifier.load(bundle, prompt=prompt, threads=1) for labels, prompt in prompts.items()}
    alone[tuple(first.facts.labels)] = classifier
    for result in sink.results[::7]:
        wanted = alone[result.prediction.labels](image_files[int(Path(result.source).stem) % 20])
        np.testing.assert_allclose(result.prediction.probabilities, wanted.probabilities, atol=1e-5)


def test_labels_of_a_file_stay_and_the_prompts_own_follow(bundle: Path, first: Prompt) -> None:
    own = LiveLabels(Classifier.load(bundle, threads=1), None)
    edited = own.fork("apple\npear")
    other = with_labels(first, "cat", "dog")
    assert own.with_prompt(other).classifier.labels == ("cat", "dog")
    assert edited.with_prompt(other).classifier.labels == ("apple", "pear")
    assert own.classifier.labels == tuple(first.facts.labels)  # a copy was made
