"""A pipeline whose sources have several tasks: one result of each for every frame, as of a run with that task alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes import FakeSink
from support.prompts import kinds_of_prompts
from support.results import file_size_limit

from attri.runtime import Classifier, stream
from attri.runtime.bundle import PROMPT
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.deliver.updates.exchange import TaskSettings
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import EngineError, FailedError, LabelsError, UsageError
from attri.runtime.pipeline.live_labels import LabelsFile, LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.prompt import Prompt


@pytest.fixture(scope="module")
def prompts(bundle: Path) -> dict[str, Prompt]:
    return kinds_of_prompts(bundle)


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Classifier:
    return Classifier.load(bundle, threads=1)


@pytest.fixture
def folder(image_files: list[Path], tmp_path: Path) -> SourceSpec:
    """60 images, of which one cannot be read."""
    (tmp_path / "in").mkdir()
    for number in range(60):
        shutil.copy(image_files[number % 12], tmp_path / "in" / f"{number:03}.png")
    (tmp_path / "in" / "030.png").write_text("no image")
    return find_source(str(tmp_path / "in"))


def setup(loaded: Classifier, prompt: Prompt, name: str | None, /, **options: Any) -> TaskSetup:
    fork = loaded.fork()
    fork.set_prompt(prompt)
    return TaskSetup(LiveLabels(fork, options.pop("file", None)), name=name, **options)


def make(specs: list[SourceSpec], tasks: list[list[TaskSetup]], schedule: Schedule | None = None) -> Pipeline:
    return Pipeline(specs, tasks, schedule or Schedule(), RetryPolicy(), 4)


def results_of(results: list[FrameResult], task: str | None) -> list[FrameResult]:
    return [result for result in results if result.task == task]


def assert_same(found: list[FrameResult], wanted: list[FrameResult]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.source, one.frame, one.label, one.changed) == (
            other.source,
            other.frame,
            other.label,
            other.changed,
        )
        np.testing.assert_array_equal(one.prediction.retrieved, other.prediction.retrieved)
        np.testing.assert_allclose(one.prediction.probabilities, other.prediction.probabilities, atol=1e-6)


@pytest.mark.stress
def test_each_task_is_as_a_run_of_its_own(
    loaded: Classifier, prompts: dict[str, Prompt], folder: SourceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"learned": DecisionRule(threshold=0.9), "other": DecisionRule(majority=3), "plain": DecisionRule()}
    runs: list[int] = []
    run = OrtEngine.run

    def counted(self: OrtEngine, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        runs.extend([len(inputs["pixels"])] if "pixels" in inputs else [])
        return run(self, inputs)

    monkeypatch.setattr(OrtEngine, "run", counted)
    tasks = [setup(loaded, prompts[name], name, rule=rule) for name, rule in rules.items()]
    sink, pipeline = FakeSink(), make([folder], [tasks])
    assert not pipeline.run([sink])  # one file failed
    assert sum(runs) == 59  # the graph saw each image once
    assert [result.task for result in sink.results] == [*rules] * 59
    assert pipeline.health()[0].frames == 59
    assert pipeline.health()[0].tasks == tuple(rules)
    for name, rule in rules.items():
        alone = FakeSink()
        make([folder], [[setup(loaded, prompts[name], None, rule=rule)]]).run([alone])
        assert_same(results_of(sink.results, name), alone.results)
        assert {result.task for result in alone.results} == {None}


def test_sources_with_different_tasks_share_one_table(
    loaded: Classifier, prompts: dict[str, Prompt], image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run of the vision graph has the same array of keys, which a device therefore keeps; answers stay."""
    asked = {0: ("learned", "static"), 1: ("other",), 2: ("plain",)}
    specs = [find_source(str(image_files[number])) for number in asked]
    tables: list[np.ndarray] = []
    run = OrtEngine.run

    def seen(self: OrtEngine, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        tables.extend([inputs["keys"]] if "keys" in inputs else [])
        return run(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(OrtEngine, "run", seen)
        sink = FakeSink()
        assert make(specs, [[setup(loaded, prompts[name], name) for name in names] for names in asked.values()]).run(
            [sink]
        )
    assert [table is tables[0] for table in tables] == [True] * 3
    assert tables[0].shape[-1] == sum(prompt.entries for prompt in prompts.values())
    for number, names in asked.items():
        for name in names:
            alone = FakeSink()
            make([specs[number]], [[setup(loaded, prompts[name], name)]]).run([alone])
            assert_same([each for each in sink.results if each.task == name], alone.results)


def test_what_is_due_is_decided_for_each_task(
    loaded: Classifier, prompts: dict[str, Prompt], folder: SourceSpec
) -> None:
    sink, every = FakeSink(), FakeSink(takes="every_frame")
    tasks = [setup(loaded, prompts[name], name) for name in ("learned", "other")]
    make([folder], [tasks], Schedule(on_change=True)).run([sink, every])
    for name in ("learned", "other"):
        changes = [result.frame for result in results_of(every.results, name) if result.changed]
        assert [result.frame for result in results_of(sink.results, name)] == changes


def test_the_summary_counts_frames_once(
    bundle: Path, prompts: dict[str, Prompt], folder: SourceSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loaded = Classifier.load(bundle, threads=1)
    make([folder], [[setup(loaded, prompts["plain"], name) for name in ("a", "b", "c")]]).run([FakeSink()])
    (summary,) = (message for message in caplog.messages if "from the text cache" in message)
    assert summary.startswith("59 frames, ")
    assert int(summary.split(", ")[1].partition("%")[0]) <= 100


def labels_file(path: Path, *labels: str) -> LabelsFile:
    path.write_text("".join(f"{label}\n" for label in labels))
    return LabelsFile.read(path)


def test_labels_belong_to_source_and_task(loaded: Classifier, prompts: dict[str, Prompt], tmp_path: Path) -> None:
    file = labels_file(tmp_path / "labels.txt", "cat", "dog")
    shared = setup(loaded, prompts["learned"], "a", file=file)
    other = setup(loaded, prompts["other"], "b")
    specs = [SourceSpec(name, "v4l2", "/dev/video0") for name in ("left", "right")]
    pipeline = make(specs, [[shared, other], [shared]])
    assert pipeline.labels("left", "a") == pipeline.labels(task="a") == ["cat", "dog"]
    assert pipeline.labels("left", "b") == prompts["other"].facts.labels
    with pytest.raises(LabelsError, match="the tasks have different labels: name one"):
        pipeline.labels_text("left")
    with pytest.raises(LabelsError, match="there is no task c"):
        pipeline.labels("left", "c")
    with pytest.raises(LabelsError, match="there is no task b"):
        pipeline.set_labels("x\ny", "right", "b")
    with pytest.raises(LabelsError, match="there is no source up"):
        pipeline.set_labels("x\ny", "up", "a")
    pipeline.set_labels("x\ny", "left", "a")
    assert (pipeline.labels("left", "a"), pipeline.labels("right", "a")) == (["x", "y"], ["cat", "dog"])
    assert pipeline.labels("left", "b") == prompts["other"].facts.labels
    assert pipeline.labels_origin("left", "a").sources == ("left", "right")
    assert pipeline.labels_origin("left", "a").edited
    assert not pipeline.labels_origin("left", "b").edited
    pipeline.write_labels("left", "a")
    assert file.path.read_text() == "x\ny\n"
    pipeline.set_labels("u\nv", task="a")
    assert pipeline.labels("left", "a") == pipeline.labels("right", "a") == ["u", "v"]


def test_a_prompt_of_one_task_leaves_the_others_alone(loaded: Classifier, prompts: dict[str, Prompt]) -> None:
    tasks = [setup(loaded, prompts["learned"], name) for name in ("a", "b")]
    pipeline = make([SourceSpec("left", "v4l2", "/dev/video0")], [tasks])
    pipeline.set_prompt(prompts["other"], "left", "b")
    assert pipeline.labels("left", "a") == prompts["learned"].facts.labels
    assert pipeline.labels("left", "b") == prompts["other"].facts.labels


class Acting(FakeSink):
    """A sink that acts after so many results."""

    def __init__(self, every: int, act: Callable[[int], None]) -> None:
        super().__init__()
        self.every, self.act = every, act

    def write(self, result: FrameResult) -> None:
        super().write(result)
        if len(self.results) % self.every == 0:
            self.act(len(self.results) // self.every)


@pytest.mark.stress
def test_swaps_of_one_task_under_load(
    loaded: Classifier, bundle: Path, prompts: dict[str, Prompt], folder: SourceSpec
) -> None:
    """Prompt and labels of one task take turns while frames are classified: none is lost or mixed, the others stay."""
    names = ("learned", "other", "plain")
    pipeline = make([folder], [[setup(loaded, prompts[name], name) for name in names]])

    def act(turn: int) -> None:
        pipeline.set_prompt(prompts[("static", "other")[turn % 2]], task="other")

    sink = Acting(9, act)
    pipeline.run([sink])
    alone = {name: Classifier.load(bundle, prompt=prompt, threads=1) for name, prompt in prompts.items()}
    assert [result.task for result in sink.results] == [*names] * 59
    seen = set()
    for result in sink.results[::5]:
        labels = list(result.prediction.labels)
        name = result.task
        if name == "other":
            (name,) = (each for each in ("static", "other") if prompts[each].facts.labels == labels)
            seen.add(name)
        wanted = alone[name](result.source)
        np.testing.assert_array_equal(result.prediction.retrieved, wanted.retrieved)
        np.testing.assert_allclose(result.prediction.probabilities, wanted.probabilities, atol=1e-6)
    assert seen == {"static", "other"}


def replace_file(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def test_prompt_files_are_watched_for_their_tasks(
    loaded: Classifier, prompts: dict[str, Prompt], image_files: list[Path], tmp_path: Path
) -> None:
    """Two tasks of one file change at once; the third, of another file, does not."""
    file, second = tmp_path / "a.attri", tmp_path / "b.attri"
    for path in (file, second):
        prompts["learned"].save(path)
    tasks = [
        setup(loaded, prompts["learned"], name, prompt=path)
        for name, path in zip("abc", (file, file, second), strict=True)
    ]
    shutil.copy(image_files[0], tmp_path / "one.png")
    spec = find_source(str(tmp_path / "one.png"))
    pipeline = make([replace(spec, input=SourceOptions(loop=-1))], [tasks])

    def act(turn: int) -> None:
        if turn == 1:
            replace_file(file, prompts["other"].to_bytes())
        if {"cat"} <= set(pipeline.labels(task="a")):
            pipeline.stop()

    sink = Acting(30, act)
    pipeline.run([sink])
    new = tuple(prompts["other"].facts.labels)
    by_frame = list(zip(*(results_of(sink.results, name) for name in "abc"), strict=False))
    for a, b, c in by_frame:
        assert (a.prediction.labels == new) == (b.prediction.labels == new)  # between two frames, both
        assert c.prediction.labels != new


def test_a_prompt_that_was_sent_can_be_written_to_its_file(
    loaded: Classifier, prompts: dict[str, Prompt], tmp_path: Path
) -> None:
    """Whole or not at all; other tasks that have theirs from there take it over."""
    file, second = tmp_path / "a.attri", tmp_path / "b.attri"
    for path in (file, second):
        prompts["learned"].save(path)
    tasks = [
        setup(loaded, prompts["learned"], name, prompt=path)
        for name, path in zip("abcd", (file, file, second, None), strict=True)
    ]
    pipeline = make([SourceSpec("left", "v4l2", "/dev/video0")], [tasks])
    for each in pipeline.prompt_files.values():
        each.poll(), each.poll()

    pipeline.set_prompt(prompts["other"], task="a")
    assert pipeline.prompt_origin(task="a") == FileOrigin(str(file), True, ("left",))
    assert pipeline.prompt_origin(task="b") == FileOrigin(str(file), False, ("left",))
    pipeline.write_prompt(task="a")
    assert Prompt.read(file).digest == prompts["other"].digest
    assert Prompt.read(second).digest == prompts["learned"].digest
    in_use = [pipeline.prompts(task=name)[0].digest for name in "abcd"]
    assert in_use == [prompts[name].digest for name in ("other", "other", "learned", "learned")]
    assert not pipeline.prompt_origin().edited

    pipeline.set_prompt(prompts["plain"], task="a")
    file.chmod(0o444)
    with pytest.raises(UsageError, match=r"a.attri is read-only: chmod u\+w it"):
        pipeline.write_prompt(task="a")
    file.chmod(0o644)
    with file_size_limit(100), pytest.raises(FailedError, match=r"a.attri cannot be written: File too large"):
        pipeline.write_prompt(task="a")
    assert Prompt.read(file).digest == prompts["other"].digest
    replace_file(file, prompts["static"].to_bytes())
    with pytest.raises(UsageError, match=r"a.attri was changed by somebody else just now"):
        pipeline.write_prompt(task="a")
    with pytest.raises(UsageError, match="there are different prompts or prompt files: name one source and task"):
        pipeline.write_prompt()
    with pytest.raises(UsageError, match="this prompt came from no file"):
        pipeline.write_prompt(task="d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.attri", "b.attri"]


def test_labels_files_are_watched_for_their_tasks(
    loaded: Classifier, prompts: dict[str, Prompt], folder: SourceSpec, tmp_path: Path
) -> None:
    """While frames are classified: every prediction has the old labels of its task or the new ones."""
    files = {name: labels_file(tmp_path / f"{name}.txt", "cat", "dog") for name in ("learned", "plain")}
    pipeline = make([folder], [[setup(loaded, prompts[name], name, file=file) for name, file in files.items()]])

    def act(turn: int) -> None:
        if turn == 1:
            files["plain"].path.write_text("cat\ntree\nhouse\n")
        for labels in pipeline.channels[0].labels:
            labels.poll()

    sink = Acting(10, act)
    pipeline.run([sink])
    assert {result.prediction.labels for result in results_of(sink.results, "learned")} == {("cat", "dog")}
    changes = [result.prediction.labels for result in results_of(sink.results, "plain")]
    assert set(changes) == {("cat", "dog"), ("cat", "tree", "house")}
    assert changes == sorted(changes, key=len)
    assert len(changes) == 59


def test_more_entries_than_the_engine_takes(
    loaded: Classifier, prompts: dict[str, Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused at the start, of one source or of several; and a swap that would need more changes nothing."""
    spec = SourceSpec("left", "v4l2", "/dev/video0")
    plenty = [setup(loaded, prompts[name], name) for name in ("learned", "other")]
    monkeypatch.setattr(OrtEngine, "limits", {"N": 20})
    said = "the 2 prompts of all tasks have together 25 pool entries, this engine takes 20: run fewer tasks"
    for specs, tasks in (([spec], [plenty]), ([spec, replace(spec, name="right")], [[each] for each in plenty])):
        with pytest.raises(EngineError, match=said):
            make(specs, tasks)
    pipeline = make([spec], [[setup(loaded, prompts["other"], "a"), setup(loaded, prompts["static"], "b")]])
    with pytest.raises(EngineError, match=said):
        pipeline.set_prompt(prompts["learned"], task="b")
    assert pipeline.labels(task="b") == prompts["static"].facts.labels


def test_stream_gives_a_result_of_each_task(bundle: Path, prompts: dict[str, Prompt], folder: SourceSpec) -> None:
    one = folder.files[0]
    with Classifier.load(bundle, prompts={"a": prompts["other"], "b": None}, threads=1) as classifier:
        wanted = classifier.classify_tasks(one)
        found = list(stream(one, classifier=classifier))
        assert [result.task for result in found] == ["a", "b"]
        for result in found:
            np.testing.assert_allclose(result.prediction.probabilities, wanted[result.task].probabilities, atol=1e-6)
        labels = {result.prediction.labels for result in stream(one, classifier=classifier, labels=["x", "y"])}
        assert labels == {("x", "y")}
        with pytest.raises(TypeError, match="prompts are for a bundle"):
            stream(one, classifier=classifier, prompts={"a": None})
    assert [result.task for result in stream(one, bundle=bundle, prompts={"c": None})] == ["c"]


def test_the_settings_of_tasks_are_what_another_process_needs_to_ask_the_same(
    loaded: Classifier, prompts: dict[str, Prompt], folder: SourceSpec, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("# kinds\ncat = a tabby; a kitten\ndog\n")
    labels = LabelsFile.read(tmp_path / "labels.txt")
    fork = loaded.fork()
    fork.threshold = 0.5
    tasks = [
        TaskSetup(LiveLabels(fork, labels, "a {}"), name="kinds", prompt=loaded.bundle.path / PROMPT),
        setup(loaded, prompts["other"], "own", prompt=tmp_path / "own.attri", rule=DecisionRule(threshold=0.25)),
    ]
    pipeline = make([folder], [tasks])
    assert pipeline.settings(folder.name) == [
        TaskSettings("kinds", None, labels.text, "a {}", 0.5, False),
        TaskSettings("own", str(tmp_path / "own.attri"), None, None, 0.25, False),
    ]
    pipeline.set_labels("tree\nhouse\n", task="own")
    assert pipeline.settings(folder.name)[1].labels == "tree\nhouse\n"
    with pytest.raises(LabelsError, match="no source"):
        pipeline.settings("elsewhere")
