"""Sources that come while attri-run runs: found and checked as those of its command line, which follows its file."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from support.fakes import wait_for
from support.streams import MjpegServer, mjpeg_server

from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT
from attri.runtime.capture.spec import RegionSpec, SourceOptions, SourceSpec
from attri.runtime.cli.sources.find import find_inputs, read_labels_files
from attri.runtime.cli.sources.options import Inputs
from attri.runtime.cli.sources.plans import CommandPlans
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import AttriError, UsageError
from attri.runtime.prompt import Prompt

TOKEN = "0123456789abcdef"
SOURCES = """
[gate]
uri = "rtsp://user:secret@host/gate"
labels = "gate.txt"
stride = 2
[yard]
uri = "camera7"
"""
NOT_GIVEN: dict[str, Any] = {
    "options": SourceOptions(),
    "majority": 1,
    **dict.fromkeys(("sources", "max_batch", "freeze_timeout", "max_retries", "template")),
    **dict.fromkeys(("watch", "wait", "on_change"), False),
    **dict.fromkeys(("gather", "smooth", "min_duration", "min_interval"), 0.0),
    **dict.fromkeys(("regions", "tasks"), ()),
}


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> Iterator[Classifier]:
    with Classifier.load(bundle, threads=1) as classifier:
        yield classifier


@pytest.fixture
def make(bundle: Path, classifier: Classifier, tmp_path: Path) -> Callable[..., CommandPlans]:
    (tmp_path / "sources.toml").write_text(SOURCES)
    (tmp_path / "gate.txt").write_text("open\nshut\n")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "prompt.attri").write_bytes((bundle / PROMPT).read_bytes())

    def make(
        *words: str, sources: str | None = "sources.toml", regions_only: bool = False, **options: Any
    ) -> CommandPlans:
        inputs = Inputs(**NOT_GIVEN | {"sources": tmp_path / sources if sources else None} | options)
        labels = tmp_path / "labels.txt"
        specs = find_inputs(words, inputs)
        files = read_labels_files(specs, labels)
        return CommandPlans(words, inputs, labels, tmp_path / "prompt.attri", files, classifier, specs, regions_only)

    return make


def test_the_file_is_read_as_at_the_start(make: Callable[..., CommandPlans], tmp_path: Path) -> None:
    region = RegionSpec("door", (0, 0, 8, 8))
    plans = make(options=SourceOptions(flip="vertical", stride=3), regions=(region,))
    before = plans.specs_of_file()
    assert list(before.values()) == list(plans.started)
    assert (before["gate"].input.stride, before["yard"].input.stride) == (2, 3)
    assert before["yard"].regions == (region,)
    (tmp_path / "sources.toml").write_text(
        SOURCES.replace("stride = 2", "") + '[hall]\nuri = "camera8"\npaused = true\n'
    )
    after = plans.specs_of_file()
    assert [name for name, spec in after.items() if before.get(name) != spec] == ["gate", "hall"]
    assert after["hall"].paused
    assert after["hall"].regions == (region,)


def test_of_the_file_only_what_was_asked_for(make: Callable[..., CommandPlans], tmp_path: Path) -> None:
    plans = make("gate", "camera1")
    (tmp_path / "sources.toml").write_text(SOURCES + '[hall]\nuri = "camera8"\n')
    assert list(plans.specs_of_file()) == ["gate"]
    (tmp_path / "sources.toml").write_text('[hall]\nuri = "camera8"\n')
    assert plans.specs_of_file() == {}
    assert make("camera1", sources=None).specs_of_file() == {}


def test_labels_and_prompt_are_those_in_the_files_now(make: Callable[..., CommandPlans], tmp_path: Path) -> None:
    plans = make()
    (tmp_path / "gate.txt").write_text("ajar\n")
    (tmp_path / "labels.txt").write_text("bird\n")
    prompt = Prompt.read(tmp_path / "prompt.attri")
    other = Prompt.of(dataclasses.replace(prompt.facts, temperature=2.0), prompt.tensors)
    (tmp_path / "prompt.attri").write_bytes(other.to_bytes())
    planned = plans.plan(list(plans.specs_of_file().values()))
    shown = [(each.spec.name, list(map(str, setup.labels.labels))) for each in planned for (setup,) in each.tasks]
    assert shown == [("gate", ["ajar"]), ("yard", ["bird"])]
    assert {setup.labels.classifier.prompt.facts.temperature for each in planned for (setup,) in each.tasks} == {2.0}
    (tmp_path / "gate.txt").unlink()
    with pytest.raises(AttriError, match=r"gate\.txt"):
        plans.plan([plans.specs_of_file()["gate"]])
    assert plans.plan([]) == []


def test_a_table_that_was_sent(make: Callable[..., CommandPlans]) -> None:
    plans = make(options=SourceOptions(stride=3), tasks=())
    spec = plans.spec_of_table("hall", {"uri": "rtsp://user:secret@host/hall", "roi": [0, 0, 8, 8], "paused": True})
    assert (spec.name, spec.kind, spec.uri) == ("hall", "stream", "rtsp://user:secret@host/hall")
    assert (spec.input.stride, spec.input.roi, spec.paused) == (3, (0, 0, 8, 8), True)
    assert "secret" not in repr(spec)


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("a", "rtsp://host/a", "a must be a table"),
        ("a", {"stride": 2}, "a has no uri"),
        ("a", {"uri": "camera1", "colour": 1}, "a.colour is not known"),
        ("a", {"uri": "camera1", "stride": 0}, "a.stride cannot be 0"),
        ("a", {"uri": "rtsp://user:secret@:1/x"}, "names no host"),
        ("a", {"uri": "gst:filesrc ! filesink"}, "that is for the sources file"),
        ("a", {"uri": "/etc"}, "has no images"),
        ("a", {"uri": "frigate://nvr"}, "only if it was started with such a source"),
        ("a", {"uri": "camera1", "labels": "/etc/passwd"}, "labels and prompt name files here"),
        ("a", {"uri": "camera1", "tasks": {"t": {"prompt": "p.attri"}}}, "labels and prompt name files here"),
        ("a", {"uri": "camera1", "tasks": {"t": {"template": "a {}"}}}, "opened for sources without tasks"),
        ("", {"uri": "camera1"}, "cannot be called ''"),
        ("a\nb", {"uri": "camera1"}, "cannot be called"),
        ("x" * 101, {"uri": "camera1"}, "cannot be called"),
    ],
)
def test_tables_that_are_refused(make: Callable[..., CommandPlans], name: str, table: object, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        make().spec_of_table(name, table)
    assert "secret" not in str(error.value)


def test_a_picture_on_this_machine_is_not_shown_to_who_asks(
    make: Callable[..., CommandPlans], image_files: list[Path]
) -> None:
    with pytest.raises(UsageError, match="a is image files: that is for the sources file"):
        make().spec_of_table("a", {"uri": str(image_files[0])})


def test_where_every_source_needs_a_region(make: Callable[..., CommandPlans]) -> None:
    plans = make(regions_only=True)
    assert plans.spec_of_table("a", {"uri": "camera1", "roi": [0, 0, 8, 8]}).input.roi
    with pytest.raises(UsageError, match="a"):
        plans.plan([plans.spec_of_table("a", {"uri": "camera1"})])


def test_tasks_of_the_command_line_are_asked_of_what_comes(make: Callable[..., CommandPlans]) -> None:
    task = TaskSpec("open")
    plans = make(tasks=(task,))
    spec: SourceSpec = plans.spec_of_table("a", {"uri": "camera1"})
    assert spec.tasks == (task,)
    (planned,) = plans.plan([spec])
    assert [setup.name for (setup,) in planned.tasks] == ["open"]


class Command:
    """attri-run with a sources file and a page."""

    def __init__(self, bundle: Path, sources: Path) -> None:
        words = ["--sources", sources, "--bundle", bundle, "--threads", "1", "--serve", "127.0.0.1:0", "--quiet"]
        self.run = subprocess.Popen(
            [sys.executable, "-m", "attri.runtime.cli.run", *map(str, words)],
            stderr=subprocess.PIPE,
            env=os.environ | {"ATTRI_SERVE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self.run.stderr is not None
        self.port = 0
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._listen, args=(self.run.stderr,))
        self.thread.start()
        wait_for(lambda: self.port)

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            self.lines.append(line)
            if line.startswith("preview: "):
                self.port = int(line.rstrip("/\n").rpartition(":")[2])

    def ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, json.dumps(body), {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        return found

    def states(self) -> dict[str, str]:
        return {each["source"]: each["state"] for each in self.ask("GET", "/api/state")["sources"]}

    def close(self) -> None:
        self.run.kill()
        self.thread.join()
        assert self.run.stderr is not None
        self.run.stderr.close()
        self.run.wait()


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    with mjpeg_server() as server:
        yield server


def test_the_command_follows_its_file_and_requests(bundle: Path, tmp_path: Path, server: MjpegServer) -> None:
    sources = tmp_path / "sources.toml"
    sources.write_text(f'[gate]\nuri = "{server.uri(account="user:secret")}"\n')
    command = Command(bundle, sources)
    try:
        wait_for(lambda: command.states() == {"gate": "live"})
        sources.write_text(f'{sources.read_text()}[yard]\nuri = "{server.uri()}"\n')
        wait_for(lambda: command.states() == {"gate": "live", "yard": "live"})
        sources.write_text("[gate\n")
        wait_for(lambda: any("is not TOML" in line for line in command.lines))
        said = command.ask("PUT", "/api/sources", {"hall": {"uri": server.uri()}, "gate": {"paused": True}})
        assert [(each["name"], each["paused"]) for each in said] == [("gate", True), ("yard", False), ("hall", False)]
        wait_for(lambda: command.states() == {"gate": "paused", "yard": "live", "hall": "live"})
        assert command.ask("PUT", "/api/sources", {"x": {"uri": "nothing"}})["error"].startswith("the request: x.uri")
        sources.write_text(f'[yard]\nuri = "{server.uri()}"\n')
        wait_for(lambda: command.states() == {"yard": "live", "hall": "live"})
        command.run.send_signal(signal.SIGTERM)
        assert command.run.wait(20) == 0
    finally:
        command.close()
    err = "".join(command.lines)
    assert "sources added: yard" in err
    assert err.count("the sources from before stay") == 2
    assert "sources removed: gate" in err
    assert "secret" not in err
