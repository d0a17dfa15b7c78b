"""--install-service: a unit for a command that would run, and one line for any other."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from attri.runtime.cli.run import main


class Finished(NamedTuple):
    code: str | int | None
    out: str
    err: str


@pytest.fixture
def install(bundle: Path, tmp_path: Path, capfd, monkeypatch) -> Iterator[Callable[[str], Finished]]:
    """attri-run --install-service, in a folder with a bundle, labels, an image, a clip's name and a sources file."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    home = tmp_path / "my home"
    home.mkdir()
    monkeypatch.chdir(home)
    Path("bundle").symlink_to(bundle)
    Path("labels.txt").write_text("red apple\nbird\n")
    Path("none.txt").write_text("\n")
    Image.new("RGB", (8, 8)).save("image.png")
    Path("clip.mp4").touch()
    Path("sources.toml").write_text('[door]\nuri = "camera0"\n')
    Path("door").mkdir()  # named as a source is, which comes first
    shutil.copy("image.png", "door")
    program = tmp_path / "bin" / "attri-run"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])

    def run(words: str) -> Finished:
        with pytest.raises(SystemExit) as stop:
            main(["--install-service", *shlex.split(words)], prog_name="attri-run")
        return Finished(stop.value.code, *capfd.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def command(unit: str) -> list[str]:
    (line,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
    return shlex.split(line)[1:]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("camera0 rtsp://host/a", "--wait camera0 rtsp://host/a --quiet"),
        ("image.png clip.mp4 *.png", "HERE/image.png HERE/clip.mp4 HERE/*.png --quiet"),
        ("camera0 --labels labels.txt", "--wait camera0 --labels HERE/labels.txt --quiet"),
        ("camera0 --labels=labels.txt --json", "--wait camera0 --labels=HERE/labels.txt --json"),
        ("camera0 --bundle bundle --csv a.csv", "--wait camera0 --bundle HERE/bundle --csv HERE/a.csv --quiet"),
        (
            "camera0 --save-video out.mp4 --snapshots s",
            "--wait camera0 --save-video HERE/out.mp4 --snapshots HERE/s --quiet",
        ),
        ("image.png --input-loop -1 --template 'a {}'", "HERE/image.png --input-loop -1 --template 'a {}' --quiet"),
        ("door --sources sources.toml", "--wait door --sources HERE/sources.toml --quiet"),
        ("--stride 2 -- image.png door", "--stride 2 --quiet -- HERE/image.png HERE/door"),
        ("--quiet --serve 8080 --metrics 1 camera0", "--wait --quiet --serve 8080 --metrics 1 camera0"),
    ],
)
def test_paths_of_the_unit_are_absolute(install, words: str, wanted: str) -> None:
    result = install(words)
    assert result.code == 0, result.err
    assert command(result.out) == [each.replace("HERE", str(Path.cwd())) for each in shlex.split(wanted)]
    assert "/etc/attri/secrets.env" in result.err
    assert not {"a.csv", "a.mp4", "s"} & {path.name for path in Path.cwd().iterdir()}  # nothing was opened


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("", 2, "name a SOURCE"),
        ("-", 2, "has no standard input"),
        ("gone.mp4", 2, "gone.mp4 does not exist"),
        ("camera0 --labels gone.txt", 2, "gone.txt does not exist"),
        ("camera0 --labels none.txt", 2, "none.txt holds no labels"),
        ("camera0 --labels /dev/stdin", 2, "is a pipe"),
        ("camera0 --bundle gone", 1, "no bundle at gone"),
        ("camera0 --bundle door", 1, "is not a bundle"),
        ("camera0 --template label", 2, "the template 'label'"),
        ("camera0 --smooth 1 --majority 3", 2, "--smooth and --majority"),
        ("camera0 --sources gone.toml", 2, "gone.toml"),
        ("camera0 --backend onnxruntime --rebuild-engines", 2, "about TensorRT's engines"),
        ("camera0 --save-video out.avi", 2, "out.avi: name a file that ends in"),
        ("camera0 --csv gone/a.csv", 2, "gone/a.csv: the folder gone does not exist"),
        ("camera0 --mqtt tcp://host", 2, "an MQTT broker is mqtt://"),
        ("camera0 --serve nowhere", 2, "HOST:PORT"),
        ("camera0 --webhook https://host/s3cret", 2, "ATTRI_WEBHOOK=URL"),
    ],
)
def test_no_unit_for_a_command_that_would_not_run(
    install, words: str, code: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"bird\n")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        result = install(words)
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
    assert (result.code, result.out) == (code, ""), result.err
    assert complaint in result.err
    assert "s3cret" not in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("av", "clip.mp4", "camera"),
        ("cv2", "camera0", "camera"),
        ("onnxruntime", "image.png", "onnx"),
        ("paho", "image.png --mqtt mqtt://host", "mqtt"),
        ("prometheus_client", "image.png --metrics 1", "metrics"),
        ("uvicorn", "image.png --serve 1", "serve"),
    ],
)
def test_a_missing_extra_is_named_before_the_service_starts(
    install, module: str, words: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = install(words)
    assert (result.code, result.out) == (1, "")
    assert f"pip install 'attri[{extra}]'" in result.err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_to_say_against_the_unit(install, tmp_path: Path) -> None:
    result = install("image.png clip.mp4 --labels labels.txt --csv 'my table.csv' --template '100% {}'")
    file = tmp_path / "attri.service"
    file.write_text(result.out)
    check = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, timeout=60)
    assert [line for line in check.stderr.splitlines() if "attri" in line] == []


def test_a_service_sees_what_is_in_tmp(install, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("PrivateTmp=yes" in install("camera0").out) is not Path.cwd().is_relative_to("/tmp")
    monkeypatch.chdir("/")
    assert "PrivateTmp=yes" not in install("camera0 --bundle /tmp/bundle").out
