"""Soak test: memory, threads and files of attri-run with changing labels, and sources that fail, come and go.

    python -m benchmarks.soak BUNDLE [--frames 5000] [--minutes 30]

First, images go into its standard input as fast as it takes them, and after every 100 results the labels file is
another one. After frame 500 its resident memory may grow by less than 20 MB.

Then, four cameras on loopback: one that is well, one whose server dies and comes back every few seconds, one that
freezes again and again, and one that changes its size; and a labels file that is edited all the while, sometimes into
nonsense. In the first and the third quarter of the time a fifth camera comes by HTTP, gets regions, is paused, goes on
and goes, again and again. Each second the memory, threads and open files of the process are read. Between the second
and the last quarter none of them may have grown. The result is kept in benchmarks/soak.md.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any
from urllib.error import HTTPError

from PIL import Image

from attri.runtime.images import list_images
from attri.train.pocket import IMAGES
from benchmarks.common import keep, process_status

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.streams import MjpegServer

COMMAND = [sys.executable, "-m", "attri.runtime.cli.run"]
SETTLED, EVERY, MOST = 500, 100, 20.0  # frames, frames, MB that memory may grow by
THINGS = ["apple", "bird", "car", "dog", "house", "shoe", "tree", "boat", "fish", "star"]
MEMORY = 4.0  # MB that may come and go: arenas of allocators, and frames on their way
TOKEN = "of the soak test"
DOOR, BOTH = {"door": [0, 0, 64, 48]}, {"door": [0, 0, 64, 48], "yard": [0, 0, 32, 48]}  # regions of its frames
EDITS = (b"cat\ndog\n", b"red apple = a red apple; an apple\nbird\nhouse\n", b"\xff\xff", b"", b"bird\n")


@dataclass(frozen=True)
class Sample:
    """Of one moment, or medians over some."""

    memory: float  # resident, MB
    threads: int
    files: int


@dataclass(frozen=True)
class Outcome:
    """Medians of the second and of the last quarter, and what the process did."""

    early: Sample
    late: Sample
    results: int
    changes: int  # of the sources, by HTTP
    code: int
    log: str

    def growth(self) -> str:
        """What has grown, in words; empty where nothing has."""
        grown = []
        if self.late.memory > self.early.memory + MEMORY:
            grown.append(f"memory from {self.early.memory:.1f} to {self.late.memory:.1f} MB")
        for name in ("threads", "files"):
            # A source that waits to try again has no socket and one thread: two may differ by the moment.
            if getattr(self.late, name) > getattr(self.early, name) + 2:
                grown.append(f"{name} from {getattr(self.early, name)} to {getattr(self.late, name)}")
        return ", ".join(grown)


def resident(pid: int) -> float:
    """Resident memory of a process, in MB."""
    return process_status("VmRSS", pid) / 1024


def new_labels(bundle: Path, folder: Path, frames: int) -> dict[int, float]:
    """Resident memory in MB by the number of frames that are done, one after every change of labels."""
    labels = folder / "labels.txt"
    labels.write_text("bird\n")
    command = [*COMMAND, "-", "--bundle", str(bundle), "--labels", str(labels), "--json", "--text-cache-mb", "1"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    memory, number = {}, 0
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        threading.Thread(target=_feed, args=(process.stdin, frames), daemon=True).start()
        for number, _ in enumerate(process.stdout, start=1):
            if number % EVERY == 0:
                memory[number] = resident(process.pid)
                labels.write_text("".join(f"{thing} number {number}\n" for thing in THINGS))
    assert process.returncode == 0, f"attri-run ended with {process.returncode}"
    assert number == frames, f"{number} results of {frames} frames"
    return memory


def _feed(target: IO[bytes], frames: int) -> None:
    images = []
    for path in list_images(IMAGES / "train"):
        stream = io.BytesIO()
        Image.open(path).convert("RGB").save(stream, "JPEG")
        images.append(stream.getvalue())
    with target:
        for number in range(frames):
            target.write(images[number % len(images)])


def soak(bundle: Path, folder: Path, seconds: float) -> Outcome:
    """Run with the four cameras for so long; `folder` is where the labels file may be."""
    labels = folder / "labels.txt"
    labels.write_bytes(EDITS[0])
    over = threading.Event()
    servers = [MjpegServer(15), MjpegServer(15)]
    well, mortal = servers
    uris = [well.uri("/cam"), well.uri("/frozen"), well.uri("/sizes"), mortal.uri("/cam")]
    command = [*COMMAND, *uris, "--bundle", str(bundle), "--labels", str(labels)]
    command += [
        "--serve",
        "127.0.0.1:0",
        "--freeze-timeout",
        "1",
        "--max-retries",
        "1000000",
        "--text-cache-mb",
        "1",
        "--threads",
        "1",
        "--json",
    ]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"ATTRI_SERVE_TOKEN": TOKEN}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        log: list[str] = []
        changes: list[None] = []
        lines: list[None] = []
        jobs = [
            threading.Thread(target=_count, args=(process.stdout, lines)),
            threading.Thread(target=_keep, args=(process.stderr, log)),
            threading.Thread(target=_edit, args=(labels, over)),
            threading.Thread(target=_kill_and_revive, args=(servers, over)),
            threading.Thread(target=_come_and_go, args=(well.uri("/cam"), seconds, log, changes, over)),
        ]
        for job in jobs:
            job.start()
        while not lines and process.poll() is None:  # it is starting
            time.sleep(0.1)
        samples = _watch(process, seconds)
        process.terminate()
        code = process.wait(10)
        over.set()
        for job in jobs:
            job.join(10)
    for server in servers:
        server.close()
    quarter = len(samples) // 4
    early, late = _median(samples[quarter : 2 * quarter]), _median(samples[3 * quarter :])
    return Outcome(early, late, len(lines), len(changes), code, "".join(log))


def _watch(process: subprocess.Popen[str], seconds: float) -> list[Sample]:
    samples = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(min(1.0, seconds / 40))
        samples.append(_sample(process.pid))
    return samples


def _sample(pid: int) -> Sample:
    files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # links to what is no file
    return Sample(resident(pid), process_status("Threads", pid), files)


def _median(samples: list[Sample]) -> Sample:
    memory = median(sample.memory for sample in samples)
    return Sample(memory, *(int(median(getattr(each, name) for each in samples)) for name in ("threads", "files")))


def _count(lines: Iterable[str], found: list[None]) -> None:
    found.extend(None for _ in lines)


def _keep(lines: Iterable[str], found: list[str]) -> None:
    for line in lines:
        found.append(line)
        del found[:-1000]


def _edit(labels: Path, over: threading.Event) -> None:
    for text in itertools.cycle(EDITS):
        if over.wait(1.5):
            return
        labels.write_bytes(text)


def _kill_and_revive(servers: list[MjpegServer], over: threading.Event) -> None:
    while not over.wait(3):
        port = servers[1].port
        servers[1].close()
        if over.wait(2):
            return
        servers[1] = MjpegServer(15, port)


def _come_and_go(uri: str, seconds: float, log: list[str], changes: list[None], over: threading.Event) -> None:
    """Add a source by HTTP, draw its regions, pause it, and remove it, in the first and third quarter of the time."""
    steps: list[tuple[str, Any]] = [
        ("sources", {"guest": {"uri": uri}}),
        ("regions?source=guest", DOOR),
        ("regions?source=guest", BOTH),
        ("regions?source=guest", DOOR),
        ("sources", {"guest": {"paused": True}}),
        ("sources", {"guest": {"paused": False}}),
        ("sources", {"guest": None}),
    ]
    while not (page := next((line.split()[1] for line in log if line.startswith("preview: ")), "")):
        if over.wait(0.1):
            return
    start = time.monotonic()
    for number, (path, body) in enumerate(itertools.cycle(steps)):
        while over.wait(0.3) or (number % len(steps) == 0 and int(4 * (time.monotonic() - start) / seconds) % 2):
            if over.is_set():
                return
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{page}api/{path}", json.dumps(body).encode(), headers, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=10):
                changes.append(None)
        except OSError as error:
            if not over.is_set():  # else it was told to stop
                log.append(f"{path}: {error.read().decode() if isinstance(error, HTTPError) else error}\n")


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.frames <= SETTLED:
        parser.error(f"memory has settled after {SETTLED} frames: --frames must be more")
    with tempfile.TemporaryDirectory() as folder:
        memory = new_labels(arguments.bundle, Path(folder), arguments.frames)
        grown = max(each for frame, each in memory.items() if frame > SETTLED) - memory[SETTLED]
        assert grown < MOST, f"{grown:.1f} MB more than after frame {SETTLED}"
        found = soak(arguments.bundle, Path(folder), 60 * arguments.minutes)
    if found.code or found.growth():
        sys.exit("\n".join([*found.log.splitlines()[-20:], f"exit code {found.code}", found.growth()]))
    lines = [
        f"{arguments.frames} frames through standard input, other labels after every {EVERY}: {memory[SETTLED]:.1f} MB"
        f" resident after frame {SETTLED}, at most {grown:.1f} MB more later ({MOST:.0f} are allowed).",
        "",
        "Four cameras on loopback (steady, dying and coming back, freezing, changing size), labels edited every 1.5 s:"
        f" {arguments.minutes:g} minutes, {found.results} results, {found.changes} changes of sources and regions by"
        f" HTTP, exit code {found.code}.",
        "",
        "| medians | second quarter | last quarter |",
        "|---|---|---|",
    ]
    for title, name, form in (("memory, MB", "memory", ".1f"), ("threads", "threads", "d"), ("files", "files", "d")):
        lines.append(f"| {title} | {getattr(found.early, name):{form}} | {getattr(found.late, name):{form}} |")
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
