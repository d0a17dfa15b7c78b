"""attri-run --follow: a prompt that is pushed while frames come is taken over, and no frame is lost."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support.fleet import pull_to, take_over
from support.prompts import changed

from attri.fleet.cli.bundle import main as attri_bundle
from attri.fleet.device import follow, update
from attri.fleet.device.check import Check
from attri.fleet.device.store import Store
from attri.runtime.bundle import PROMPT
from attri.runtime.cli.run import main as attri_run
from attri.runtime.prompt import Prompt


def bundle_command(*words: object) -> None:
    with pytest.raises(SystemExit) as stop:
        attri_bundle(list(map(str, words)), prog_name="attri-bundle")
    assert not stop.value.code


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTRI_KEYS_PASSPHRASE", "secret")
    return tmp_path


@pytest.mark.parametrize("updates", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_prompt_that_is_pushed_is_taken_over_between_two_frames(
    bundle: Path, desk: Path, image_files: list[Path], updates: int
) -> None:
    bundle_command("init-repo")
    bundle_command("push", bundle)
    prompt = Prompt.read(bundle / PROMPT)
    names = [f"cat {number}" for number in range(updates)]  # each prompt has one label, which all frames get
    for seed, name in enumerate(names):
        changed(prompt, [name], seed, 9).save(Path(f"{name}.attri"))
    image = io.BytesIO()
    Image.open(image_files[0]).convert("RGB").save(image, "jpeg")
    pull_to(Path("store"), Path("repo"))
    take_over(Path("store"))
    options = ["--follow", "repo", "--store", "store", "--interval", "1"]
    options += ["--shadow", "2", "--min-agreement", "0%", "--max-shift", "100%"]  # labels have other names here
    words = ["-m", "attri.runtime.cli.run", "-", *options, "--probation", "0", "--json", "--threads", "1"]
    with subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        labels: list[str] = []
        waiting = iter(names)
        due: str | None = None  # label of the prompt that was pushed last
        while len(labels) < 20_000 and names[-1:] != labels[-1:]:
            run.stdin.write(image.getvalue())
            run.stdin.flush()
            found = json.loads(run.stdout.readline())
            assert found["frame"] == len(labels)
            labels.append(found["label"])
            if len(labels) == 3 or (due is not None and labels[-1] == due):
                due = next(waiting, None)
                if due is not None:
                    bundle_command("push", f"{due}.attri")
        run.stdin.close()
        assert run.stdout.read() == b""
    assert run.returncode == 0
    seen = [label for label in dict.fromkeys(labels) if label not in prompt.facts.labels]
    assert seen == names
    state = Store(Path("store")).state
    assert state.current is not None
    assert state.current.kind == "prompt"
    assert state.update is not None
    assert state.update.figures["shadow"]["frames"] == 2  # of the running attri-run
    counts = Store(Path("store")).live.counts()
    assert counts.now[Prompt.read(Path("store", "current", PROMPT)).digest].results > 0


@pytest.mark.slow
def test_ten_prompts_during_a_file_lose_none_of_its_2000_frames(
    bundle: Path, desk: Path, image_files: list[Path]
) -> None:
    """A file is read as fast as its results are: here ten a second, until the last prompt is in use."""
    av = pytest.importorskip("av")
    bundle_command("init-repo")
    bundle_command("push", bundle)
    prompt = Prompt.read(bundle / PROMPT)
    names = [f"cat {number}" for number in range(10)]
    for seed, name in enumerate(names):
        changed(prompt, [name], seed, 9).save(Path(f"{name}.attri"))
    with av.open("clip.mp4", "w") as clip:
        stream = clip.add_stream("mpeg4", 30, width=128, height=128)
        for number in range(2000):
            with Image.open(image_files[number % 4]) as image:
                frame = av.VideoFrame.from_image(image.convert("RGB").resize((128, 128)))
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())
    pull_to(Path("store"), Path("repo"))
    take_over(Path("store"))
    words = ["-m", "attri.runtime.cli.run", "clip.mp4", "--follow", "repo", "--store", "store", "--interval", "1"]
    words += ["--probation", "0", "--json", "--threads", "1"]
    frames: list[int] = []
    labels: list[str] = []
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        fcntl.fcntl(run.stdout, fcntl.F_SETPIPE_SZ, 4096)  # a dozen results that are written and not read
        waiting = iter(names)
        due: str | None = None
        for line in run.stdout:
            found = json.loads(line)
            frames.append(found["frame"])
            labels.append(found["label"])
            if len(labels) == 3 or (due is not None and labels[-1] == due):
                due = next(waiting, None)
                if due is not None:
                    bundle_command("push", f"{due}.attri")
            time.sleep(0.1 if due is not None else 0)
    assert run.returncode == 0
    assert frames == list(range(2000))
    assert [label for label in dict.fromkeys(labels) if label not in prompt.facts.labels] == names


def test_a_release_is_checked_as_it_will_be_used(
    desk: Path, image_files: list[Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of attri-run about labels and scores go through attri-bundle follow and update to the check."""
    commands: list[list[str]] = []
    checks: list[Check] = []

    def replace_process(_: str, words: list[str]) -> None:
        commands.append(words[3:])
        raise SystemExit

    def verify(_store: Store, check: Check, *_: object) -> None:
        checks.append(check)
        raise SystemExit

    monkeypatch.setattr("os.execv", replace_process)
    monkeypatch.setattr(follow, "follow", lambda following: commands.append(list(following.update[3:])) or 0)
    monkeypatch.setattr(update, "pull", lambda *_: True)
    monkeypatch.setattr(update, "verify", verify)
    shutil.copy(bundle / PROMPT, "own.attri")
    words = ["--follow", "repo", "--store", "store", "--labels", "labels.txt", "--template", "a {} -- here"]
    words += [
        "--threshold",
        "0.7",
        "--independent",
        "--shortlist",
        "5",
        "--task",
        "first=own.attri",
        "--task",
        "second=",
    ]
    with pytest.raises(SystemExit):
        attri_run([str(image_files[0]), *words], prog_name="attri-run")
    bundle_command(*commands[0])
    bundle_command(*commands[1])
    (check,) = checks
    assert check.labels == str(desk / "labels.txt")
    assert (check.template, check.threshold, check.independent, check.shortlist) == ("a {} -- here", 0.7, True, 5)
    assert check.prompts == (str(desk / "own.attri"),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--channel", "beta"], "--channel is for --follow"),
        (["--min-agreement", "50%"], "--min-agreement is for --follow"),
        (["--follow", "repo", "--bundle", "bundle"], "--bundle comes with what is followed"),
        (["--follow", "repo", "--prompt", "p.attri"], "--prompt comes with what is followed"),
    ],
)
def test_options_that_contradict_each_other(
    words: list[str], said: str, desk: Path, image_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        attri_run([str(image_files[0]), *words], prog_name="attri-run")
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
