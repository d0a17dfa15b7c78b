"""`attri-run --task`: what stands on stdout, in tables and names of files, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.prompts import kinds_of_prompts

from attri.runtime import Classifier
from attri.runtime.cli.run import main
from attri.runtime.prompt import Prompt


class Finished(NamedTuple):
    code: str | int | None
    out: str
    err: str

    @property
    def objects(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def prompts(bundle: Path) -> dict[str, Prompt]:
    return kinds_of_prompts(bundle)


@pytest.fixture
def attri_run(
    bundle: Path,
    prompts: dict[str, Prompt],
    image_files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Finished]]:
    """The command in this process, in a folder with prompts, labels and six images in `in`."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.chdir(tmp_path)
    for name, prompt in prompts.items():
        prompt.save(Path(f"{name}.attri"))
    Path("labels.txt").write_text("cat\nteapot\n")
    Path("in").mkdir()
    for number, file in enumerate(image_files[:6]):
        shutil.copy(file, f"in/{number}.png")

    def run(*words: object) -> Finished:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, words), "--bundle", str(bundle), "--threads", "1"], prog_name="attri-run")
        return Finished(stop.value.code, *capsys.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def alone(attri_run: Callable[..., Finished], *words: object) -> list[dict]:
    """JSON objects of a run of its own, without what differs from run to run."""
    return [plain(each) for each in attri_run("in", "--json", *words).objects]


def plain(found: dict) -> dict:
    """A JSON object without what a run of its own cannot have equal."""
    return {key: value for key, value in found.items() if key not in ("time", "latency_ms", "cache", "task")}


def test_each_task_prints_what_a_run_of_its_own_prints(attri_run: Callable[..., Finished]) -> None:
    tasks = ("--task", "a=other.attri:labels.txt", "--task", "b=plain.attri", "--task", "c=:labels.txt", "--task", "d=")
    result = attri_run("in", "--json", *tasks)
    assert result.code == 0
    assert [each["task"] for each in result.objects] == ["a", "b", "c", "d"] * 6
    assert list(result.objects[0])[:4] == ["source", "task", "frame", "time"]
    for name, words in {
        "a": ("--prompt", "other.attri", "--labels", "labels.txt"),
        "b": ("--prompt", "plain.attri"),
        "c": ("--labels", "labels.txt"),
        "d": (),
    }.items():
        assert [plain(each) for each in result.objects if each["task"] == name] == alone(attri_run, *words)


def test_options_of_all_are_those_of_tasks_that_have_none(attri_run: Callable[..., Finished]) -> None:
    common = ("--labels", "labels.txt", "--prompt", "other.attri", "--threshold", "0.99")
    result = attri_run("in", "--json", *common, "--task", "a=", "--task", "b=static.attri")
    assert [plain(each) for each in result.objects if each["task"] == "a"] == alone(attri_run, *common)
    static = [each for each in result.objects if each["task"] == "b"]
    assert {top["label"] for each in static for top in each["top"]} <= {"cat", "teapot"}
    assert {each["label"] for each in static} == {None}  # two labels alike, below the threshold


def test_a_run_without_tasks_names_none(attri_run: Callable[..., Finished]) -> None:
    result = attri_run("in", "--json", "--csv", "log.csv", "--snapshots", "shots")
    assert all("task" not in each for each in result.objects)
    assert Path("log.csv").read_text().startswith("source,frame,time,label,score,changed,age_ms,dropped\n")
    assert {len(file.name.split("_")) for file in Path("shots").iterdir()} == {4}


def test_lines_tables_and_snapshots_name_the_task(attri_run: Callable[..., Finished]) -> None:
    words = ("in", "--task", "a=other.attri", "--task", "b=plain.attri", "--csv", "log.csv", "--snapshots", "shots")
    result = attri_run(*words)
    assert [line.split()[:2] for line in result.out.splitlines()[:2]] == [["in/0.png", "a"], ["in/0.png", "b"]]
    attri_run(*words, "--quiet")  # the table is continued
    with Path("log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["source", "task", "frame"]
    assert [row["task"] for row in rows] == ["a", "b"] * 12
    names = [file.name.split("_")[1:3] for file in sorted(Path("shots").iterdir())]
    assert ["in-0.png", "a"] in names
    assert ["in-0.png", "b"] in names
    refused = attri_run("in", "--csv", "log.csv")
    assert (refused.code, refused.err) == (2, "error: log.csv holds another table: name a new file\n")


def test_a_recording_is_of_one_task(attri_run: Callable[..., Finished]) -> None:
    pytest.importorskip("av")
    tasks = ("--task", "a=other.attri", "--task", "b=plain.attri")
    assert attri_run("in", "--quiet", *tasks, "--save-video", "{source}-{task}.mp4").code == 0
    assert sorted(file.name for file in Path().glob("*.mp4")) == ["in-a.mp4", "in-b.mp4"]
    assert (
        "a recording shows one task: put {task} into its name" in attri_run("in", *tasks, "--save-video", "o.mp4").err
    )
    assert "there are no tasks: leave out {task}" in attri_run("in", "--save-video", "{task}.mp4").err


def test_sources_have_tasks_of_their_own(attri_run: Callable[..., Finished]) -> None:
    Path("sources.toml").write_text(
        """
        [gate]
        uri = "in"
        labels = "labels.txt"
        [gate.tasks.defects]
        prompt = "other.attri"
        threshold = 1.0
        [gate.tasks.fill]
        prompt = "plain.attri"
        template = "{}"
        [other]
        uri = "in/0.png"
        """
    )
    result = attri_run("--sources", "sources.toml", "--json")
    assert result.code == 0
    assert [(Path(each["source"]).name, each.get("task")) for each in result.objects][:4] == [
        ("0.png", "defects"), ("0.png", "fill"), ("1.png", "defects"), ("1.png", "fill"),
    ]  # fmt: skip
    assert "task" not in result.objects[-1]
    defects = [each for each in result.objects if each.get("task") == "defects"]
    assert {each["label"] for each in defects} == {None}
    wanted = attri_run("in", "--json", "--labels", "labels.txt", "--prompt", "plain.attri", "--template", "{}").objects
    fill = [each for each in result.objects if each.get("task") == "fill"]
    assert [each["top"] for each in fill] == [each["top"] for each in wanted]
    given = attri_run("--sources", "sources.toml", "--json", "--task", "x=").objects
    assert [each["task"] for each in given][-1] == "x"  # of the source that has none


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "a"], "'a' is not NAME=PROMPT or NAME=PROMPT:LABELS"),
        (["--task", "a=x.attri:"], "'a=x.attri:' is not NAME=PROMPT or NAME=PROMPT:LABELS"),
        (["--task", "a/b="], "a task cannot be called 'a/b': letters, digits, _ and - within"),
        (["--task", "=plain.attri"], "a task cannot be called ''"),
        (["--task", "state="], "and not state"),
        (["--task", "a=", "--task", "a=plain.attri"], "--task: two tasks are called a"),
        (["--task", "a=gone.attri"], "the prompt gone.attri cannot be read: No such file"),
        (["--task", "a=labels.txt"], "labels.txt is no prompt file of attri, or it is damaged"),
        (["--task", "a=:gone.txt"], "gone.txt"),
        (["--task", "a=:labels.txt", "--labels", "labels.txt"], "--labels: every task or region has its own"),
        (["--task", "a=plain.attri", "--prompt", "other.attri"], "--prompt: every task or region has its own"),
        (
            ["--sources", "own.toml", "--threshold", "1", "--template", "{}"],
            "--template, --threshold: every task or region has",
        ),
        (["--task", "a=alien.attri"], "alien.attri was made for another bundle (weights"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    attri_run: Callable[..., Finished], prompts: dict[str, Prompt], words: list[str], said: str
) -> None:
    import dataclasses

    other = prompts["other"]
    facts = dataclasses.replace(other.facts, base=other.facts.base | {"weights": "0" * 64})
    Prompt.of(facts, other.tensors).save(Path("alien.attri"))
    table = '[one]\nuri = "in"\nthreshold = 0.1\n[one.tasks.a]\ntemplate = "a {}"\n'
    Path("own.toml").write_text(table)
    result = attri_run(*words) if "--sources" in words else attri_run("in", *words)
    assert result.code in (1, 2)
    assert result.out == ""
    assert said in result.err
    assert "Traceback" not in result.err
    assert len([line for line in result.err.splitlines() if "rror" in line]) == 1


def test_a_service_has_tasks_with_whole_paths(
    attri_run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "attri-run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    result = attri_run("--install-service", "in", "--task", "a=other.attri:labels.txt", "--task=b=:labels.txt")
    assert result.code == 0, result.err
    assert f"a={tmp_path}/other.attri:{tmp_path}/labels.txt" in result.out
    assert f"--task=b=:{tmp_path}/labels.txt" in result.out


def test_the_classifier_says_the_same(attri_run: Callable[..., Finished], bundle: Path) -> None:
    objects = attri_run("in", "--json", "--task", "a=other.attri", "--task", "b=").objects
    with Classifier.load(bundle, prompts={"a": "other.attri", "b": None}, threads=1) as classifier:
        for found in objects:
            wanted = classifier.classify_tasks(found["source"])[found["task"]]
            assert (found["label"], found["score"]) == (wanted.label, round(wanted.score, 6))


KINDS = ("--task", "zero=plain.attri", "--task", "static=static.attri", "--task", "learned=learned.attri")


def test_compare_shows_frames_that_are_decided_differently(attri_run: Callable[..., Finished]) -> None:
    """Zero-shot, static and learned prompts of one base, with the same labels."""
    Path("many.txt").write_text("arrow\nshirt\ncake\nfruit\nbird\nhammer\nhouse\ncat\nflower\n")
    words = ("in", "--labels", "many.txt", *KINDS)
    every = attri_run(*words, "--json").objects
    by_frame = [every[first : first + 3] for first in range(0, len(every), 3)]
    differing = [group for group in by_frame if len({each["label"] for each in group}) > 1]
    assert 0 < len(differing) < len(by_frame)  # or the images show nothing
    result = attri_run(*words, "--compare", "--json")
    assert result.code == 0
    assert [plain(each) for each in result.objects] == [plain(each) for group in differing for each in group]
    agree = len(by_frame) - len(differing)
    assert f"compared 6 frames: agreed all tasks on {agree} ({agree / 6:.0%}), zero and static on " in result.err
    lines = attri_run(*words, "--compare").out.splitlines()
    assert [line.split()[1] for line in lines] == ["zero", "static", "learned"] * len(differing)
    quiet = attri_run(*words, "--compare", "--quiet", "--csv", "log.csv")
    assert quiet.out == ""
    assert "compared 6 frames" in quiet.err
    assert len(Path("log.csv").read_text().splitlines()) == 19  # other sinks get all


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in"], "--compare: in has no two tasks to compare: give --task twice or more"),
        (["in", "--task", "a="], "--compare: in has no two tasks"),
        (["in", *KINDS, "--on-change"], "--compare looks at every frame: leave out --on-change and --min-interval"),
        (["in", *KINDS, "--min-interval", "1"], "--compare looks at every frame"),
    ],
)
def test_compare_needs_two_tasks_and_every_frame(
    attri_run: Callable[..., Finished], words: list[str], said: str
) -> None:
    result = attri_run(*words, "--compare")
    assert (result.code, result.out) == (2, "")
    assert said in result.err
