"""A command beside its updates: it runs on, starts again for other graphs, and gets the release before back."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.fleet import SMALL, content, pull_to, push_files, take_over
from support.peers import wait_for

from attri.fleet.device.follow import Following, follow
from attri.fleet.device.probation import Probation
from attri.fleet.device.store import Store, live_folder
from attri.fleet.repository.repository import Repository
from attri.runtime.deliver.updates.exchange import LabelCounts, ReleaseCounts

UPDATE = """
import sys
from pathlib import Path
from support.fleet import pull_to, take_over
if pull_to(Path(sys.argv[1]), Path(sys.argv[2])):
    take_over(Path(sys.argv[1]), probation=True)
"""
# Notes which prompt it finds, and ends as that says, or where it began with graphs that say so.
COMMAND = """
import sys, time
from pathlib import Path
bundle, log = map(Path, sys.argv[1:3])
graph = (bundle / "vision.onnx").read_bytes()
while True:
    prompt = (bundle / "prompt.attri").read_text()
    with log.open("a") as file:
        print(prompt, file=file)
    if prompt == "crash":
        sys.exit(1)
    if prompt == "end" or graph == b"end":
        sys.exit(0)
    time.sleep(0.02)
"""


@pytest.fixture
def following(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Following:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    store = tmp_path / "store"
    pull_to(store, repository.folder)
    take_over(store)
    update = [sys.executable, "-c", UPDATE, str(store), str(repository.folder)]
    command = [sys.executable, "-S", "-c", COMMAND, str(store / "current"), str(tmp_path / "log")]
    return Following(store, update, command, interval=0.1, probation=Probation(0.1), restart=True)


def prompts(following: Following) -> list[str]:
    """What the command found, without repetitions in a row."""
    log = Path(following.command[-1])
    lines = log.read_text().split() if log.exists() else []
    return [line for before, line in zip(["", *lines], lines, strict=False) if line != before]


def test_a_new_prompt_is_there_without_another_start(following: Following, repository: Repository) -> None:
    push_files(repository, {**SMALL, "prompt.attri": b"end"}, kind="prompt")
    assert follow(following) == 0
    assert prompts(following) == ["first", "end"]


def test_other_graphs_start_it_again(following: Following, repository: Repository) -> None:
    push_files(repository, {**SMALL, "vision.onnx": b"end"})
    assert follow(following) == 0
    assert content(following.store / "current")["vision.onnx"] == b"end"


def test_other_graphs_wait_for_the_next_start_where_it_must_not_be_stopped(
    following: Following, repository: Repository
) -> None:
    following = dataclasses.replace(following, restart=False)
    push_files(repository, {**SMALL, "vision.onnx": b"end"})
    with stopped_when(following, "trying", "first"):
        assert follow(following) == 128 + signal.SIGTERM
    assert Store(following.store).state.trying is not None  # and not committed, though it went on for a while
    # A busy machine takes a while to start what then ends.
    following = dataclasses.replace(following, probation=Probation(60.0))
    assert follow(following) == 0  # these graphs end it
    assert Store(following.store).state.trying is not None


def test_a_release_that_ends_it_twice_on_probation_gives_way_to_the_one_before(
    following: Following, repository: Repository
) -> None:
    following = dataclasses.replace(following, probation=Probation(60.0))
    push_files(repository, {**SMALL, "prompt.attri": b"crash"}, kind="prompt")
    with stopped_when(following, "rolled back", "first"):
        assert follow(following) == 128 + signal.SIGTERM
    assert prompts(following) == ["first", "crash", "first"]
    assert Path(following.command[-1]).read_text().split().count("crash") == 3  # taken over by the first, then twice
    assert content(following.store / "current") == SMALL
    update = Store(following.store).state.update
    assert update is not None
    assert update.reason == "it ended 2 times while it was on probation"


@pytest.mark.parametrize(
    ("counted", "why"),
    [
        (LabelCounts(300, 0, {"cat": 300}), "the distribution of its labels is 100.0% from the one before"),
        (LabelCounts(1, 1, {"dog": 1}), "1 of its 1 results have a score that is no finite number"),
    ],
)
def test_a_release_whose_results_are_out_of_bounds_gives_way_to_the_one_before(
    following: Following, repository: Repository, counted: LabelCounts, why: str
) -> None:
    reports: list[str] = []

    def report(store: Store) -> None:
        assert store.state.update is not None
        reports.append(store.state.update.stage)

    following = dataclasses.replace(following, probation=Probation(600.0, max_shift=50.0), report=report)
    release = push_files(repository, {**SMALL, "prompt.attri": b"second"}, kind="prompt")
    live, before = live_folder(following.store), LabelCounts(300, 0, {"dog": 300})

    def count() -> None:
        """What attri-run does; these files are no prompts, so that they have no sha256."""
        wait_for(lambda: prompts(following)[-1:] == ["second"], 60)
        live.tell_counts(ReleaseCounts(release.name, {"": counted}, {"": before}))

    counting = threading.Thread(target=count)
    counting.start()
    with stopped_when(following, "rolled back", "first"):
        assert follow(following) == 128 + signal.SIGTERM
    counting.join()
    assert prompts(following) == ["first", "second", "first"]  # without another start
    update = Store(following.store).state.update
    assert update is not None
    assert update.reason.startswith(why)
    assert reports == ["rolled back"]


def test_a_release_without_enough_results_is_committed_and_that_is_said(
    following: Following, repository: Repository
) -> None:
    following = dataclasses.replace(following, probation=Probation(0.1, max_rejected=5.0))
    push_files(repository, {**SMALL, "prompt.attri": b"second"}, kind="prompt")
    with stopped_when(following, "committed", "second"):
        follow(following)
    update = Store(following.store).state.update
    assert update is not None
    assert update.reason == "without its bounds: 0 results came on probation, they need 200"


def test_what_runs_long_enough_is_committed(following: Following, repository: Repository) -> None:
    push_files(repository, {**SMALL, "prompt.attri": b"second"}, kind="prompt")
    with stopped_when(following, "committed", "second"):
        assert follow(following) == 128 + signal.SIGTERM
    assert prompts(following) == ["first", "second"]


def test_a_failure_that_is_no_releases_fault_is_the_exit_code(following: Following) -> None:
    assert follow(dataclasses.replace(following, command=[sys.executable, "-S", "-c", "raise SystemExit(7)"])) == 7


def test_without_a_release_the_first_update_decides(following: Following, tmp_path: Path) -> None:
    broken = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    assert follow(dataclasses.replace(following, store=tmp_path / "new", update=broken)) == 3


@contextmanager
def stopped_when(following: Following, stage: str, prompt: str) -> Iterator[None]:
    """What follows within is stopped as by a service manager, once the last update is so far, and this prompt runs."""
    over = threading.Event()

    def stop() -> None:
        while not over.wait(0.05):
            state = Store(following.store).state
            if state.update and state.update.stage == stage and prompts(following)[-1:] == [prompt]:
                if not over.wait(1.0 if stage == "trying" else 0.0):  # ten times the probation: committed by now
                    os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
