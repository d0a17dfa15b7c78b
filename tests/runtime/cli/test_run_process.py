"""attri-run as a process of its own: signals, pipes, standard input, names that are no text, what it costs."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.results import LABELS
from support.streams import cpu_seconds


def process(bundle: Path, *args: str | Path, setup: str = "", stdin: int | None = None) -> subprocess.Popen[str]:
    """The command in a process of its own; `setup` runs before anything of ours is imported."""
    code = f"{setup}\nfrom attri.runtime.cli.run import main\nmain(prog_name='attri-run')"
    words = [sys.executable, "-c", code, *(os.fspath(arg) for arg in args), "--bundle", str(bundle), "--threads", "1"]
    pipes: dict[str, Any] = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run: subprocess.Popen[str] = subprocess.Popen(words, text=True, encoding="utf-8", **pipes)
    if isinstance(run.stdin, io.TextIOWrapper):  # bytes as they are
        run.stdin.reconfigure(encoding="latin-1", newline="")
    return run


def test_a_reader_that_leaves_ends_it_quietly(bundle: Path, image_files: list[Path]) -> None:
    with process(bundle, *image_files * 5, "--json") as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert json.loads(run.stdout.readline())["frame"] == 0
        run.stdout.close()
        err = run.stderr.read()
    assert run.returncode == 0
    assert len(err.splitlines()) == 2  # which bundle, what batches; no traceback, no "Exception ignored"


def test_ctrl_c(bundle: Path, image_files: list[Path]) -> None:
    with process(bundle, *image_files * 50) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()
    assert run.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert err.splitlines()[-3].endswith("from the text cache")
    assert "Traceback" not in err


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_file_name_that_is_not_text(bundle: Path, image_files: list[Path], tmp_path: Path, as_folder: bool) -> None:
    """Shown with its byte as \\xff in every output; a reader that is strict about Unicode takes them all."""
    folder, table = tmp_path / "in", tmp_path / "table.csv"
    folder.mkdir()
    names = [os.fsdecode(os.fsencode(folder) + name) for name in (b"/\xff.png", b"/\xfe.png")]
    shutil.copy(image_files[0], names[0])
    Path(names[1]).write_text("no image")
    run = process(bundle, *([str(folder)] if as_folder else names), "--json", "--log-json", "--csv", str(table))
    out, err = run.communicate()
    assert run.returncode == 1, err
    objects = [json.loads(line) for line in (out + err).splitlines()]
    str(objects).encode()  # a lone surrogate, as a string or as an escape in JSON, cannot be
    assert objects[0]["source"] == f"{folder}/\\xff.png"
    assert any(f"{folder}/\\xfe.png is not an image" in each.get("message", "") for each in objects)
    assert table.read_text(encoding="utf-8").splitlines()[1].startswith(f"{folder}/\\xff.png,")
    if not as_folder:
        text, _ = process(bundle, names[0]).communicate()
        assert text.startswith(f"{folder}/\\xff.png  ")


def test_sigterm_ends_it_well_and_at_once(bundle: Path, image_files: list[Path]) -> None:
    """The promise is 2 s; a busy machine gets more, but not to go through all that there is."""
    with process(bundle, *image_files * 50, "--json") as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGTERM)
        start = time.monotonic()
        out, err = run.communicate()
    assert time.monotonic() - start < 10
    assert run.returncode == 0, err
    assert all(json.loads(line)["label"] for line in out.splitlines())  # the last line is whole
    assert len(out.splitlines()) < 25 * len(image_files)
    assert "Traceback" not in err


def test_jpegs_from_standard_input(bundle: Path, image_files: list[Path], tmp_path: Path) -> None:
    data = b""
    for path in image_files[:3]:
        Image.open(path).convert("RGB").save(tmp_path / "x.jpg")
        data += (tmp_path / "x.jpg").read_bytes()
    run = process(bundle, "-", "--json", stdin=subprocess.PIPE)
    out, err = run.communicate(data.decode("latin-1"))
    assert run.returncode == 0, err
    assert [(each["source"], each["frame"]) for each in map(json.loads, out.splitlines())] == [
        ("-", i) for i in range(3)
    ]


def test_a_dead_camera_costs_nothing_and_ends_with_1(bundle: Path) -> None:
    """Loading apart, the process sleeps while it waits to try again; a loop that does not would take a whole core, and
    the bound leaves room for a busy machine."""
    with process(bundle, "rtsp://user:secret@127.0.0.1:9/cam", "--max-retries", "3") as run:
        assert run.stderr is not None
        while "(1 of 3)" not in (line := run.stderr.readline()):
            assert line
        wall, cpu = time.monotonic(), cpu_seconds(run.pid)
        while "(3 of 3)" not in (line := run.stderr.readline()):
            assert line
        used = (cpu_seconds(run.pid) - cpu) / (time.monotonic() - wall)
        _, rest = run.communicate()
    assert used < 0.25
    assert run.returncode == 1
    last, summary = rest.splitlines()
    words = "nothing listens on that port (connection refused), given up after 3 retries"
    assert last == f"error: rtsp://***@127.0.0.1:9/cam: {words}"
    assert summary == "0 frames, 0% from the text cache, 1 source given up"


def test_a_password_is_in_no_traceback(bundle: Path) -> None:
    setup = "import attri.runtime.capture.reader as r\ndef fail(*a): raise ZeroDivisionError(a[0].uri)"
    setup += "\nr.open_source = fail"
    run = process(bundle, "rtsp://user:s3cr3t@host/1", setup=setup)
    out, err = run.communicate()
    assert (run.returncode, out) == (1, "")
    assert "Traceback" in err
    assert "ZeroDivisionError: rtsp://***@host/1" in err
    assert "s3cr3t" not in err


def test_an_edited_labels_file_counts_while_it_runs(bundle: Path, labels: Path, image_files: list[Path]) -> None:
    """In the whole command, fed by a pipe: an edit, a broken file, and an edit that mends it. How soon, is for
    test_pipeline.py, where the model takes no time."""
    setup = "import logging"
    run = process(bundle, "-", "--json", "--topk", "9", "--labels", labels, stdin=subprocess.PIPE, setup=setup)
    path = labels.with_name("x.jpg")
    Image.open(image_files[0]).convert("RGB").save(path)
    image = path.read_bytes().decode("latin-1")

    def names() -> set[str]:
        run.stdin.write(image)
        run.stdin.flush()
        return {each["label"] for each in json.loads(run.stdout.readline())["top"]}

    def until(wanted: set[str]) -> None:
        start = time.monotonic()
        while names() != wanted:
            assert time.monotonic() < start + 20

    until(set(LABELS))
    labels.write_text("cat\ndog = a dog; a puppy\n")
    until({"cat", "dog"})
    labels.write_bytes(b"\xff\xff cat")
    end = time.monotonic() + 3  # two looks at the file, many times over
    while time.monotonic() < end:
        assert names() == {"cat", "dog"}
    labels.write_text("bird\n")
    until({"bird"})
    _, err = run.communicate()
    assert f"{labels} is not UTF-8 at byte 0: save the file as UTF-8; the labels from before stay" in err.splitlines()
    assert f"{labels}: 1 label" in err.splitlines()
