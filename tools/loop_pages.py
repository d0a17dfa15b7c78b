"""Make docs/loop-collect.png and docs/loop-swap.png anew: the page of attri-run at both ends of a turn of the loop.

    python tools/loop_pages.py BUNDLE

BUNDLE is that of `make demo`. The whole turn is made: the sources of tools/preview.py are collected from, every image
gets the label of what its region shows, `attri-train --from` learns them, and the new prompt is sent to the page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.chromium import Browser

from attri.runtime.collection.folder import Collection
from attri.runtime.labels import class_words
from attri.runtime.prompt import Prompt
from tools.demo import LABELS
from tools.preview import SCENES, SOURCES, TOKEN, film

DOCS = Path(__file__).parents[1] / "docs"
SHOWN = {"shelf/left": "fruit", "shelf/right": "heart", "gate": "ground vehicle"}
LEAST = 12  # images to learn
PATIENCE = 300  # seconds
WINDOW, WHOLE = (1280, 640), (1280, 3200)  # pixels


def command(module: str, *words: object) -> None:
    """Run one of our commands, which has to succeed."""
    subprocess.run([sys.executable, "-m", f"attri.{module}", *map(str, words)], check=True)


def label(collection: Collection) -> None:
    """Wait for enough images, and give each the label of what its region shows."""
    end = time.monotonic() + PATIENCE
    while len(collection.content().names) < LEAST:
        assert time.monotonic() < end, "too little was collected"
        time.sleep(1)
    collection.set_answers({item.name: SHOWN[item.origin] for item in collection.items()})


def photograph(browser: Browser, output: Path, selector: str = "") -> None:
    """Keep a picture of one element of the page, or of the window."""
    browser.screenshot(output, whole=False)
    with Image.open(output) as page:
        picture = page.convert("RGB")
    if selector:
        place = f"document.querySelector('{selector}').getBoundingClientRect()"
        x, y, width, height = browser.js(
            f"(({{x, y, width, height}}) => [x + scrollX, y + scrollY, width, height])({place})"
        )
        picture = picture.crop((int(x), int(y), int(x + width) + 1, int(y + height) + 1))
    picture.quantize(256).save(output, optimize=True)
    print(output)


@contextmanager
def opened(url: str, profile: Path, size: tuple[int, int]) -> Iterator[Browser]:
    """The page, in a browser of its own, once it shows all sources and the details of one."""
    browser = Browser(profile)
    try:
        browser.open(f"{url}#token={TOKEN.replace(' ', '%20')}", *size)
        browser.wait_for("document.querySelectorAll('.card img').length === 3", PATIENCE)
        browser.wait_for("document.querySelectorAll('#scores li').length > 1", PATIENCE)
        yield browser
    finally:
        browser.close()


def turn(bundle: Path, folder: Path, url: str) -> None:
    """One turn of the loop, with a picture at each end."""
    better = folder / "better.attri"
    with opened(url, folder / "first", WINDOW) as browser:
        photograph(browser, DOCS / "loop-collect.png")
    label(Collection(folder / "collected"))
    added = ("--add", folder / "collected", "--output", folder / "run", "--device", "cpu")
    command("train.cli", "--from", bundle, *added)
    command("export.cli", folder / "run", "--prompt-only", "--base", bundle, "--output", better)
    send(better, url)
    with opened(url, folder / "second", WHOLE) as browser:
        digest = Prompt.read(better).digest[:12]
        browser.wait_for(f"document.querySelector('#prompt-about').textContent.includes('{digest}')", PATIENCE)
        photograph(browser, DOCS / "loop-swap.png", "#prompt-panel")


def send(prompt: Path, url: str) -> None:
    """Send a prompt file to the page's server."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"{url.rstrip('/')}/api/prompt", prompt.read_bytes(), headers, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def main() -> None:
    """Start attri-run on the films, and make the turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for scene, names in SCENES.items():
            film(names, folder / f"{scene}.mp4")
        (folder / "sources.toml").write_text(SOURCES)
        (folder / "labels.txt").write_text("".join(f"{class_words(label)}\n" for label in LABELS))
        words = ["--sources", "sources.toml", "--bundle", bundle, "--labels", "labels.txt", "--collect", "collected"]
        words += ["--collect-per-minute", 100, "--collect-novelty", 0.1, "--serve", "127.0.0.1:0", "--quiet"]
        with (folder / "log").open("w") as log:
            run = subprocess.Popen(
                [sys.executable, "-m", "attri.runtime.cli.run", *map(str, words)],
                cwd=folder,
                stderr=log,
                env=os.environ | {"ATTRI_SERVE_TOKEN": TOKEN},
            )
        try:
            turn(bundle, folder, page_of(folder / "log"))
        finally:
            run.kill()
            run.wait()


def page_of(log: Path) -> str:
    """Wait for the address of the page."""
    end = time.monotonic() + PATIENCE
    while True:
        for line in log.read_text().splitlines():
            if line.startswith("preview: "):
                return line.split()[1]
        assert time.monotonic() < end, "attri-run did not start"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
