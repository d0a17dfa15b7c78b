"""What POST /api/classify costs a running camera: its results per second and their age, with and without a client.

    python -m benchmarks.posts BUNDLE [BUNDLE ...] [--seconds 10] [--rounds 5] [--side 480]

attri-run classifies an MJPEG stream of 30 frames per second on loopback and serves its page. In turn, round by round,
nobody asks it for anything; a client posts a JPEG (--side is its shorter side) as soon as the one before is answered;
and a client posts forms of eight of them likewise. Where the answer is 429, the client waits as long as it is told to.
The first second of each turn does not count. The table is kept in benchmarks/posts.md.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from attri.runtime.bundle import Bundle
from benchmarks.common import in_turn, keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.peers import free_port
from support.streams import MjpegServer

SETTLE = 1.0  # seconds
TOKEN, BOUNDARY = "token-of-a-benchmark", "x"


class Turn(NamedTuple):
    """What came of some seconds: the camera's results per second, their ages in ms, and images that were answered."""

    rate: float
    ages: list[float]
    answered: float


class Running:
    """attri-run in a process of its own, and the results of its camera as they come."""

    def __init__(self, bundle: Path, uri: str) -> None:
        self.port, self.ages = free_port(), list[float]()
        words = [uri, "--json", "--bundle", str(bundle), "--serve", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "attri.runtime.cli.run", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"ATTRI_SERVE_TOKEN": TOKEN},
        )
        threading.Thread(target=self._read, daemon=True).start()
        while not self.ages:
            assert self.process.poll() is None, "attri-run has ended"
            time.sleep(0.1)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.ages.append(json.loads(line)["age_ms"])

    def turn(self, seconds: float, body: bytes | None, images: int) -> Turn:
        """Some seconds with a client that posts a body of so many images, or without."""
        with posting(self.port, body) as answers:
            time.sleep(SETTLE)
            first, before = len(self.ages), len(answers)
            time.sleep(seconds)
            ages, count = self.ages[first:], len(answers) - before
        return Turn(len(ages) / seconds, ages, images * count / seconds)


@contextmanager
def posting(port: int, body: bytes | None) -> Iterator[list[int]]:
    """A client that posts as fast as it may; its list grows by one with each answer."""
    answers, over = list[int](), threading.Event()
    client = threading.Thread(target=post, args=(port, body, answers, over))
    if body is not None:
        client.start()
    yield answers
    over.set()
    if body is not None:
        client.join()


def post(port: int, body: bytes, answers: list[int], over: threading.Event) -> None:
    """Post until it is over."""
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not over.is_set():
        connection.request("POST", "/api/classify", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 429:
            over.wait(float(answer.headers["Retry-After"]))
        else:
            assert answer.status == 200, answer.status
            answers.append(answer.status)
    connection.close()


def form(images: int, side: int) -> bytes:
    """A form with so many JPEGs, each of its own."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'.encode()
    return b"".join(head + jpeg(number, side) + b"\r\n" for number in range(images)) + f"--{BOUNDARY}--\r\n".encode()


def jpeg(number: int, side: int) -> bytes:
    """Some colours, which no other number has."""
    colours = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def rows(bundle: Path, rounds: int, seconds: float, side: int) -> Iterator[str]:
    """A row of the table for each client."""
    server = MjpegServer()
    running = Running(bundle, server.uri())
    clients = {"none": (None, 0), "an image at a time": (form(1, side), 1), "eight in a form": (form(8, side), 8)}
    found = in_turn({name: partial(running.turn, seconds, *client) for name, client in clients.items()}, rounds)
    running.process.terminate()
    server.close()
    model = Bundle.open(bundle).manifest.model["name"]
    for name, turns in found.items():
        rate, answered = (np.median([getattr(turn, each) for turn in turns]) for each in ("rate", "answered"))
        median, late = np.percentile([age for turn in turns for age in turn.ages], [50, 95])
        yield f"| {model} | {name} | {rate:.1f} | {median:.0f} | {late:.0f} | {answered:.1f} |"


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=480)
    arguments = parser.parse_args()
    lines = [
        f"{arguments.rounds} rounds of {arguments.seconds:g} s each in turn; JPEGs with a shorter side of"
        f" {arguments.side} pixels. Rates are medians of the rounds, ages of all their results.",
        "",
        "| model | client | camera, results/s | median age, ms | 95% of ages, ms | images answered/s |",
        "|---|---|---|---|---|---|",
    ]
    for bundle in arguments.bundles:
        lines += rows(bundle, arguments.rounds, arguments.seconds, arguments.side)
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
