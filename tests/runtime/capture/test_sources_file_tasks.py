"""Tasks in a sources file: what a person may write there, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from attri.runtime.capture.sources_file import read_sources
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError


def write(folder: Path, text: str) -> Path:
    (folder / "sources.toml").write_text(text, encoding="utf-8")
    return folder / "sources.toml"


def test_tasks_of_a_source(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [gate]
        uri = "camera0"
        labels = "gate.txt"
        [gate.tasks.defects]
        prompt = "defects.attri"
        labels = "defects.txt"
        threshold = 0.4
        independent = true
        smooth = 1
        min_duration = 2.5
        template = "a {} part"
        [gate.tasks.fill]
        prompt = "/prompts/fill.attri"
        majority = 5
        [gate.tasks.door-1]
        [yard]
        uri = "camera1"
        """,
    )
    named = read_sources(path)
    prompt, labels = tmp_path / "defects.attri", tmp_path / "defects.txt"
    defects = TaskSpec("defects", prompt, labels, "a {} part", 0.4, independent=True, smooth=1, min_duration=2.5)
    fill = TaskSpec("fill", Path("/prompts/fill.attri"), majority=5)
    assert named["gate"].tasks == (defects, fill, TaskSpec("door-1"))
    assert named["gate"].labels == tmp_path / "gate.txt"
    assert named["yard"].tasks == ()


def test_rules_of_tasks() -> None:
    """What a task says counts more than what is said to all; one way of smoothing takes the place of the other."""
    common = DecisionRule(smooth=1.0, min_duration=2.0, threshold=0.5)
    assert TaskSpec("a").rule(common) == common
    assert TaskSpec("a", majority=3).rule(common) == DecisionRule(majority=3, min_duration=2.0, threshold=0.5)
    assert TaskSpec("a", smooth=0.0).rule(common) == DecisionRule(min_duration=2.0, threshold=0.5)
    assert TaskSpec("a", threshold=0.0, min_duration=0.0).rule(common) == DecisionRule(smooth=1.0, threshold=0.0)


GATE = '[gate]\nuri = "camera0"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{GATE}tasks = 3", "gate.tasks cannot be 3"),
        (f"{GATE}tasks = {{}}", "gate.tasks cannot be {}"),
        (f"{GATE}[gate.tasks]\na = 1", r"gate.tasks.a must be a table: write \[gate.tasks.a\]"),
        (f'{GATE}[gate.tasks."a/b"]', "gate.tasks: a task cannot be called 'a/b': letters, digits"),
        (f'{GATE}[gate.tasks."{"x" * 41}"]', "at most 40"),
        (f"{GATE}[gate.tasks.state]", "and not state"),
        (f'{GATE}[gate.tasks.a]\nprompts = "x"', "gate.tasks.a.prompts is not known: use prompt, labels"),
        (f"{GATE}[gate.tasks.a]\nprompt = 3", "gate.tasks.a.prompt cannot be 3"),
        (f'{GATE}[gate.tasks.a]\ntemplate = "x"', "gate.tasks.a.template cannot be 'x'"),
        (f"{GATE}[gate.tasks.a]\nthreshold = 2", "gate.tasks.a.threshold cannot be 2"),
        (f"{GATE}[gate.tasks.a]\nmajority = 0", "gate.tasks.a.majority cannot be 0"),
        (f"{GATE}[gate.tasks.a]\nsmooth = -1", "gate.tasks.a.smooth cannot be -1"),
        (f"{GATE}[gate.tasks.a]\nsmooth = 1\nmajority = 3", "gate.tasks.a: smooth and majority are two ways"),
        ('[in]\nuri = "."\n[in.tasks.a]\nsmooth = 1', "in.tasks.a takes no smooth: an image says nothing of the next"),
        (f"{GATE}[gate.tasks.a]\n[gate.tasks.a]", "is not TOML"),
    ],
)
def test_wrong_tasks_are_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match=words) as error:
        read_sources(write(tmp_path, text))
    assert "\n" not in str(error.value)
