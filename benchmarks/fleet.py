"""A fleet on one machine: every device updated in waves, a bad wave halted, and no frame lost.

    python -m benchmarks.fleet BUNDLE [--devices 20]

Each device is an `attri-bundle follow` with its attri-run, which gets two images a second on its standard input, and a
store of its own. All ask one static web server and report to one Mosquitto. A job promotes as docs/howto/fleet.md says.
First all devices fetch a bundle; then a prompt that says the same comes in three waves; then one that rejects whatever
it sees is pushed to a first wave. Devices with even numbers compare live frames before (`--shadow`), the others only
judge results on probation (`--max-rejected`). It fails where a device does not get the good prompt, one runs the bad
one at the end, one outside of the wave has ever seen that, or a frame has no result.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attri.fleet.channel import Channel
from attri.fleet.release import Release
from attri.fleet.reports import read_reports
from attri.fleet.repository.metadata import SignedMetadata
from attri.fleet.repository.repository import Repository
from attri.runtime.bundle import PROMPT
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.images import list_images, load_image
from attri.runtime.prompt import Prompt
from attri.train.pocket import IMAGES
from benchmarks.common import keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.fleet import StaticServer, serving
from support.peers import Mosquitto

BUNDLE = [sys.executable, "-m", "attri.fleet.cli.bundle"]
RUN = [sys.executable, "-m", "attri.runtime.cli.run"]
INTERVAL, PROBATION = 5, 5  # seconds
PERIOD = 0.5  # seconds between images
PATIENCE = 600.0  # seconds


class Device:
    """A device at work.

    Attributes:
        name: as it reports.
        shadow: whether it compares live frames.
        fed: images that it was given.
    """

    def __init__(self, number: int, folder: Path, url: str, broker: Broker, images: Sequence[bytes]) -> None:
        self.name, self.shadow, self.fed = f"device-{number:02}", number % 2 == 0, 0
        self.store, self._images = folder / self.name, images
        self._output = folder / f"{self.name}.json"
        judged = ["--shadow", "4"] if self.shadow else ["--max-rejected", "50%", "--least-results", "5"]
        words = ["follow", url, "--root", str(folder / "repo" / "metadata" / "1.root.json"), "--name", self.name]
        words += ["--store", str(self.store), "--mqtt", broker.address, "--interval", str(INTERVAL), *judged]
        run = [*RUN, "-", "--bundle", str(self.store / "current"), "--json", "--threads", "1"]
        with self._output.open("w") as output, (folder / f"{self.name}.log").open("w") as log:
            self._process = subprocess.Popen(
                [*BUNDLE, *words, "--probation", str(PROBATION), "--", *run],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
            )
        self._over = threading.Event()
        self._feeding = threading.Thread(target=self._feed)
        self._feeding.start()

    def _feed(self) -> None:
        assert self._process.stdin is not None
        while not (self.store / "current").exists():
            if self._over.wait(PERIOD):
                return
        while not self._over.wait(PERIOD):
            self._process.stdin.write(self._images[self.fed % len(self._images)])
            self._process.stdin.flush()
            self.fed += 1

    def end(self) -> int:
        """Give it no more images, wait for its end, and return how many results there are."""
        self._over.set()
        self._feeding.join()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        return len(self._output.read_text().splitlines())

    def kill(self) -> None:
        """End it at once, where it has not ended."""
        self._over.set()
        self._process.kill()


class Publisher:
    """The workstation, with the job that promotes."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self._folder, self._broker = folder, broker
        self.call("init-repo")

    def call(self, *words: str) -> int:
        """A command of attri-bundle beside the repository; its exit code."""
        return self._run(*words).returncode

    def screen(self, *words: str) -> list[str]:
        """A command of attri-bundle and what it prints, as a block of Markdown."""
        return [
            "",
            f"    attri-bundle {' '.join(words)}",
            "",
            *(f"    {line}" for line in self._run(*words).stdout.splitlines()),
        ]

    def devices(self) -> list[str]:
        """What an operator sees of all devices."""
        screen = self.screen("devices", "--mqtt", self._broker.address)
        return [line.replace(self._broker.address, "mqtt://broker") for line in screen]

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ATTRI_KEYS_PASSPHRASE": "secret"}
        done = subprocess.run([*BUNDLE, *words], cwd=self._folder, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1, 4), done.stderr
        return done

    def push(self, what: Path, *words: str) -> tuple[Release, float]:
        """Push it; the release, and when that was."""
        assert self.call("push", str(what.absolute()), *words) == 0
        metadata = SignedMetadata(self._folder / "repo" / "metadata", [])
        return Repository(self._folder / "repo", metadata).channel("stable").releases[-1], time.time()

    def promote(self, least: int, *words: str) -> int:
        """Ask until it is promoted (0), or revoked (4)."""
        look = ("--mqtt", self._broker.address, "--max-failed", "5%", "--least", str(least))
        deadline = time.monotonic() + PATIENCE
        while (code := self.call("promote", *words, *look)) == 1:
            assert time.monotonic() < deadline, "nothing is promoted"
        return code


def wait_for(broker: Broker, wanted: Callable[[dict[str, Any]], bool], count: int) -> dict[str, dict[str, Any]]:
    """Wait until so many devices report what is wanted; their last updates, by name."""
    deadline = time.monotonic() + PATIENCE
    while True:
        reports = [each for each in read_reports(broker) if wanted(each)]
        if len(reports) >= count:
            return {each["device"]: each["update"] for each in reports}
        assert time.monotonic() < deadline, f"{len(reports)} of {count} devices are so far"


def committed(release: Release) -> Callable[[dict[str, Any]], bool]:
    """Whether a report says that a device has committed a release."""
    return lambda report: (report["update"]["release"], report["update"]["state"]) == (release.name, "committed")


def prompts(bundle: Path, folder: Path) -> tuple[Path, Path]:
    """One that says what the bundle's own does, and one that rejects whatever it sees."""
    own = Prompt.read(bundle / PROMPT)
    good = dataclasses.replace(own.facts, source={"again": True})
    bad = dataclasses.replace(own.facts, threshold=1.0)
    for name, facts in {"good": good, "bad": bad}.items():
        Prompt.of(facts, own.tensors).save(folder / f"{name}.attri")
    return folder / "good.attri", folder / "bad.attri"


def say(what: str) -> None:
    """Show how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr)


def first_wave(release: Release, names: Sequence[str], percent: float) -> set[str]:
    """The devices in a first wave of this size."""
    channel = Channel("stable").push(release, percent)
    return {name for name in names if channel.offered(name) is not None}


def jpegs(count: int) -> list[bytes]:
    """Images of the embedded set."""
    found = []
    for file in list_images(IMAGES / "test")[:count]:
        data = io.BytesIO()
        load_image(file).save(data, "JPEG", quality=92)
        found.append(data.getvalue())
    return found


def play(bundle: Path, count: int, folder: Path, server: StaticServer, broker: Broker, desk: Publisher) -> list[str]:
    """The story; the page."""
    good_prompt, bad_prompt = prompts(bundle, folder)
    first, _ = desk.push(bundle)
    began, images = time.time(), jpegs(8)
    with ExitStack() as undo:
        devices = [Device(number, folder, server.url, broker, images) for number in range(count)]
        for each in devices:
            undo.callback(each.kill)
        names = [each.name for each in devices]
        installed = wait_for(broker, committed(first), count)
        say("all run the bundle")
        good, pushed = desk.push(good_prompt, "--wave", "20%")
        for least, larger in ((1, ["--wave", "60%"]), (count // 4, [])):
            assert desk.promote(least, *larger) == 0
        updated = wait_for(broker, committed(good), count)
        say("all run the good prompt")
        bad, offered = desk.push(bad_prompt, "--wave", "20%")
        wave = first_wave(bad, names, 20.0)
        assert desk.promote(1, "--wave", "60%") == 4
        halted = time.time() - offered
        say(f"the bad prompt was revoked; its wave: {', '.join(sorted(wave))}")
        wait_for(broker, lambda report: bool(report["runs"] == good.name), count)
        time.sleep(3 * INTERVAL)  # all ask once more
        failed = wait_for(broker, lambda report: bool(report["update"]["release"] == bad.name and _failed(report)), 1)
        screens = desk.devices() + desk.screen("status", "--repo", "repo")
        results = {each.name: each.end() for each in devices}
        assert failed.keys() <= wave, "a device outside of the wave has seen the bad prompt"
        assert all((each.store / "current").resolve().name == good.name for each in devices)
        assert all(results[each.name] == each.fed for each in devices), "a frame has no result"
    lines = [
        f"{count} devices ask every {INTERVAL} s, {PROBATION} s of probation. The bundle has {first.size / 1e6:.1f} MB,"
        f" a prompt {good.files[PROMPT].size / 1e6:.2f} MB. The good prompt came in waves of 20%, 60% and all, which"
        f" the job enlarged as devices committed it. The bad one was offered to {len(wave)} devices, and revoked"
        f" {halted:.0f} s after it was pushed; {len(failed)} of them refused it or went back. All devices run the good"
        " one at the end.",
        "",
        "| device | judges | first bundle after, s | good prompt after, s | bad prompt | images | results |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in devices:
        judges = "live frames" if each.shadow else "probation"
        after = f"{installed[each.name]['time'] - began:.0f} | {updated[each.name]['time'] - pushed:.0f}"
        end = failed.get(each.name, {"state": "taken back in time" if each.name in wave else "not offered"})["state"]
        lines.append(f"| {each.name} | {judges} | {after} | {end} | {each.fed} | {results[each.name]} |")
    return [*lines, "", "## What an operator sees at the end", *screens]


def _failed(report: dict[str, Any]) -> bool:
    return report["update"]["state"] in ("refused", "rolled back")


def main() -> None:
    """Parse the command line, play, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--devices", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as undo:
        folder = Path(name)
        mosquitto = Mosquitto(folder)
        undo.callback(mosquitto.kill)
        broker = Broker("127.0.0.1", mosquitto.port)
        desk = Publisher(folder, broker)
        server = undo.enter_context(serving(folder / "repo"))
        lines = play(arguments.bundle, arguments.devices, folder, server, broker, desk)
    keep(Path(__file__), __doc__, "\n".join(lines))


if __name__ == "__main__":
    main()
