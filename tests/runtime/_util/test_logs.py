"""Logs for people and for machines; credentials in neither, tracebacks included."""

from __future__ import annotations

import json
import subprocess
import sys

SECRET = "s3cret"
CODE = """
import click, logging, threading
from attri.runtime.cli.command import Command
from attri.runtime.errors import FailedError
from attri.runtime._util.logs import log_json

@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True)
@click.argument("how")
def main(as_json, how):
    if as_json:
        log_json()
    url = "rtsp://ann:s3cret@host/a"
    logging.getLogger("attri").info("opening %s", url)
    if how == "failure":
        raise FailedError(f"{url} is gone")
    if how == "bug":
        raise ZeroDivisionError(url)
    if how == "thread":
        def run():
            raise ZeroDivisionError(url)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)


def test_lines_for_a_person() -> None:
    done = run("failure")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == ["opening rtsp://***@host/a", "error: rtsp://***@host/a is gone"]


def test_objects_for_a_machine() -> None:
    done = run("failure", "--json")
    opening, error = map(json.loads, done.stderr.splitlines())
    assert set(opening) == {"time", "level", "logger", "message"}
    assert opening["time"].endswith("Z")
    assert (opening["level"], opening["message"]) == ("info", "opening rtsp://***@host/a")
    assert (error["level"], error["message"]) == ("error", "error: rtsp://***@host/a is gone")


def test_a_bug_keeps_its_traceback_but_not_the_password() -> None:
    for how, code in (("bug", 1), ("thread", 0)):
        done = run(how)
        assert done.returncode == code
        assert "ZeroDivisionError: rtsp://***@host/a" in done.stderr
        assert "Traceback (most recent call last)" in done.stderr
        *_, last = map(json.loads, run(how, "--json").stderr.splitlines())
        assert last["level"] == "critical"
        assert last["traceback"].endswith("ZeroDivisionError: rtsp://***@host/a")
        assert SECRET not in done.stderr + str(last)
