"""Whose pipe broke: a reader of stdout that has gone is the end, anything else is a failure."""

from __future__ import annotations

import importlib
import io
import logging
import os
import subprocess
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from attri.runtime.cli.command import CAPTURE, ENGINE, Command, option, stdout_is_broken
from attri.runtime.cli.run import main
from attri.runtime.errors import FailedError

CODE = """
import sys, click, socket
from attri.runtime.cli.run import main
from attri.runtime.cli.command import Command

@click.command(cls=Command)
@click.argument("where")
def main(where):
    sys.stdin.read()
    if where == "socket":
        ours, theirs = socket.socketpair()
        theirs.close()
        ours.send(b"x")
    click.echo("x" * 100_000, err=where == "stderr")
main()
"""


def run(where: str, gone: str) -> tuple[int, str]:
    """Exit code and what can be read of it; the reader of the pipe `gone` leaves before anything is written there."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", CODE, where], text=True, **pipes) as process:
        if gone:
            getattr(process, gone).close()
        process.stdin.close()
        left = "".join(getattr(process, name).read() for name in ("stdout", "stderr") if name != gone)
    return process.returncode, left


def test_a_reader_of_stdout_that_has_gone_is_the_end() -> None:
    assert run("stdout", "stdout") == (0, "")


def test_a_connection_that_broke_is_a_failure() -> None:
    line = "error: the other end of a pipe or connection has gone: see that it stays\n"
    assert run("socket", "") == (1, line)


def test_parameters_in_errors_of_the_library_are_spelled_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command(cls=Command)
    @click.option("--engine-dir", "-e")
    @click.option("--json", "as_json", is_flag=True)
    def command(engine_dir: str | None, as_json: bool) -> None:
        raise FailedError("name another folder as `engine_dir`, without `as_json`; `path` is no option")

    with pytest.raises(SystemExit):
        command([])
    assert "name another folder as --engine-dir, without --json; path is no option" in capsys.readouterr().err


def test_a_reader_of_stderr_that_has_gone_is_a_failure() -> None:
    assert run("stderr", "stderr") == (1, "")


def test_stdout_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not stdout_is_broken()
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert not stdout_is_broken()
        os.close(reading)
        assert stdout_is_broken()


@pytest.mark.parametrize(
    "module", ["runtime.cli.run", "runtime.cli.collect", "runtime.cli.doctor", "train.cli", "export.cli"]
)
def test_every_option_says_what_it_is_for(module: str) -> None:
    command = importlib.import_module(f"attri.{module}").main
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [each.name for each in options if not each.help] == []


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["rtsp:/u:p%40s3cret@host/x"], "rtsp:/***@host/x"),
        (["u:p%40s3cret@host/x"], "***@host/x"),
        (["--threshold", "rtsp://u:s3cret@h"], "'rtsp://***@h'"),
        (["--roi=u:s3cret@h"], "'***@h'"),
        (["--rtsp://u:s3cret@h"], "--rtsp://***@h"),
        (["camera0", "--bundle", "u:s3 cret@h"], "***@h"),
        (["camera0", "--install-service", "--mqtt", "mqtt://u:s3cret@h"], "no password in the URL"),
    ],
)
def test_no_error_shows_a_password(words: list[str], shown: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # that of this stderr, which others must not get
    monkeypatch.setattr(sys, "argv", ["attri-run", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code in (1, 2)
    assert out == ""
    assert "s3" not in err
    assert shown in err


def test_help_groups_options_under_headings() -> None:
    @click.command(cls=Command)
    @click.argument("words", nargs=-1)
    @option(ENGINE, "--threads", type=click.IntRange(1), help="Threads.")
    @click.option("--plain", help="Of no group.")
    @option(CAPTURE, "--rate", type=click.FloatRange(0), help="Frames per second.")
    def command(**_: object) -> None:
        pass

    lines = CliRunner().invoke(command, ["--help"]).output.splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith("Usage")] == [
        "Capture:",
        "Engine:",
        "Other options:",
    ]
    after = lines.index("Engine:") + 1
    assert lines[after].split() == ["--threads", "N", "Threads.", "[x>=1]"]
    assert not any(line.strip().startswith("WORDS") for line in lines)


def test_every_option_of_attri_run_has_a_heading() -> None:
    without = [each.name for each in main.params if isinstance(each, click.Option) and not getattr(each, "group", "")]
    assert without == ["version"]
