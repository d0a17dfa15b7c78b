"""Leave attri-run alone with bad company, and see that it does not grow.

    python benchmarks/soak.py BUNDLE [--minutes 30]

Four cameras on loopback: one that is well, one whose server dies and comes back every few seconds, one that freezes
again and again, and one that changes its size; and a labels file that is edited all the while, sometimes into nonsense.
Each second the memory, threads and open files of the process are read. Between the second and the last quarter of the
time none of them may have grown.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from streams import MjpegServer

MEMORY = 4.0  # MB that may come and go: arenas of allocators, and frames on their way
_EDITS = (b"cat\ndog\n", b"red apple = a red apple; an apple\nbird\nhouse\n", b"\xff\xff", b"", b"bird\n")


@dataclass(frozen=True)
class Sample:
    """Of one moment."""

    memory: float  # resident, MB
    threads: int
    files: int


@dataclass(frozen=True)
class Outcome:
    """Medians of the second and of the last quarter, and what the process did."""

    early: Sample
    late: Sample
    results: int
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


def soak(bundle: Path, folder: Path, seconds: float) -> Outcome:
    """Run for so long; `folder` is where the labels file may be."""
    labels = folder / "labels.txt"
    labels.write_bytes(_EDITS[0])
    over = threading.Event()
    servers = [MjpegServer(15), MjpegServer(15)]
    well, mortal = servers
    uris = [well.uri("/cam"), well.uri("/frozen"), well.uri("/sizes"), mortal.uri("/cam")]
    command = [sys.executable, "-m", "attri.runtime.cli", *uris, "--bundle", str(bundle), "--labels", str(labels)]
    command += ["--frozen-after", "1", "--max-retries", "1000000", "--cache-mb", "1", "--threads", "1", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        log: list[str] = []
        lines: list[None] = []
        jobs = [
            threading.Thread(target=_count, args=(process.stdout, lines)),
            threading.Thread(target=_keep, args=(process.stderr, log)),
            threading.Thread(target=_edit, args=(labels, over)),
            threading.Thread(target=_kill_and_revive, args=(servers, over)),
        ]
        for job in jobs:
            job.start()
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
    return Outcome(early, late, len(lines), code, "".join(log))


def _watch(process: subprocess.Popen[str], seconds: float) -> list[Sample]:
    samples = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(min(1.0, seconds / 40))
        samples.append(_sample(process.pid))
    return samples


def _sample(pid: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    return Sample(int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), files)


def _median(samples: list[Sample]) -> Sample:
    memory = median(sample.memory for sample in samples)
    return Sample(memory, *(int(median(getattr(each, name) for each in samples)) for name in ("threads", "files")))


def _count(lines: object, found: list[None]) -> None:
    found.extend(None for _ in lines)


def _keep(lines: object, found: list[str]) -> None:
    for line in lines:
        found.append(line)
        del found[:-1000]


def _edit(labels: Path, over: threading.Event) -> None:
    for text in itertools.cycle(_EDITS):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(arguments.bundle, Path(folder), 60 * arguments.minutes)
    print(f"{arguments.minutes:g} minutes, {found.results} results, exit code {found.code}\n")
    print("| | second quarter | last quarter |\n|---|---|---|")
    for name, form in (("memory", ".1f"), ("threads", "d"), ("files", "d")):
        print(f"| {name} | {getattr(found.early, name):{form}} | {getattr(found.late, name):{form}} |")
    if found.code or found.growth():
        sys.exit("\n".join([*found.log.splitlines()[-20:], found.growth()]))


if __name__ == "__main__":
    main()
