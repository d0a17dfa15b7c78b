"""Make docs/preview.png anew: the page of attri-run --serve in a real browser, with two sources and drawn regions.

    python tools/preview.py BUNDLE [--output docs/preview.png]

BUNDLE is that of `make demo`. What the cameras see are drawings that come with attri, under an open licence. Needs
Chromium and what the tests need.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from attri.runtime.labels import class_words
from attri.train.pocket import IMAGES

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.chromium import Browser

from tools.demo import FPS, LABELS

TOKEN = "for the picture"
SIZE, TILE = (640, 360), 200  # pixels of a frame, and of a drawing in it
WIDTH, HEIGHT = 1280, 900
SCENES = {"shelf": ("fruit", "heart"), "gate": ("ground_vehicle",)}
SOURCES = """[shelf]
uri = "shelf.mp4"
loop = -1

[shelf.regions.left]
roi = [40, 60, 240, 240]

[shelf.regions.right]
roi = [360, 60, 240, 240]

[gate]
uri = "gate.mp4"
loop = -1
"""


def film(names: tuple[str, ...], path: Path) -> None:
    """A video of drawings beside each other, which change each second."""
    import av

    files = [sorted((IMAGES / "test" / name).glob("*.png")) for name in names]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height = SIZE
        stream.bit_rate = 4_000_000
        for number in range(4):
            frame = Image.new("RGB", SIZE, "white")
            for place, images in enumerate(files):
                drawing = Image.open(images[number % len(images)]).convert("RGB")
                left = (2 * place + 1) * SIZE[0] // (2 * len(files)) - TILE // 2
                frame.paste(drawing.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, (SIZE[1] - TILE) // 2))
            for _ in range(FPS):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame))))
        container.mux(stream.encode())


def shoot(url: str, profile: Path, output: Path) -> None:
    """Open the page, choose what is shown, and keep a picture of it."""
    browser = Browser(profile)
    try:
        browser.open(f"{url}#token={TOKEN.replace(' ', '%20')}", WIDTH, 2400)
        browser.wait_for("document.querySelectorAll('.card img').length === 3")
        browser.wait_for("document.querySelectorAll('.region').length === 2")
        browser.wait_for("document.querySelector('#board-image[src]')?.complete")
        browser.wait_for("document.querySelectorAll('#scores li').length > 1")
        browser.screenshot(output)
        Image.open(output).convert("RGB").quantize(256).save(output, optimize=True)  # a third of the size
    finally:
        browser.close()


def main() -> None:
    """Start attri-run on the films, and photograph its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "preview.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for scene, names in SCENES.items():
            film(names, folder / f"{scene}.mp4")
        (folder / "sources.toml").write_text(SOURCES)
        (folder / "labels.txt").write_text("".join(f"{class_words(label)}\n" for label in LABELS))
        words = ["--sources", "sources.toml", "--bundle", arguments.bundle.resolve(), "--labels", "labels.txt"]
        run = subprocess.Popen(
            [sys.executable, "-m", "attri.runtime.cli.run", *map(str, words), "--serve", "127.0.0.1:0", "--quiet"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"ATTRI_SERVE_TOKEN": TOKEN},
        )
        try:
            assert run.stderr is not None
            url = next(line.split()[1] for line in run.stderr if line.startswith("preview: "))
            shoot(url, folder / "profile", arguments.output)
        finally:
            run.kill()
            run.wait()
    print(arguments.output)


if __name__ == "__main__":
    main()
