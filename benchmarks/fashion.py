"""The pocket model on images far from its own: Fashion-MNIST, photographs of clothes.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist*.deb debian
    python -m benchmarks.fashion DIR --data debian/usr/share/datasets/fashion-mnist

Zero-shot, static and AttriPrompt, base-to-novel and few-shot over three seeds, runs in DIR; done ones are not done
again. Images are inverted, because the backbone's stand on white. The tables are kept in benchmarks/fashion.md.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import keep

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SPLITS = {"train": ("train", 64), "test": ("t10k", 100)}  # images of each class
PROTOCOLS = {"base-to-novel": [], "few-shot": ["--shots", "1,4,16"]}


def read_idx(file: Path, header: int) -> np.ndarray:
    """Read the bytes of a gzipped IDX file behind its header."""
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


def unpack(data: Path, folder: Path, splits: dict[str, tuple[str, int]] = SPLITS) -> None:
    """Class folders of PNG files, from the first images of every class in the IDX files."""
    for split, (prefix, count) in splits.items():
        images = 255 - read_idx(data / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read_idx(data / f"{prefix}-labels-idx1-ubyte.gz", 8)
        for number, name in enumerate(CLASSES):
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            for place in np.flatnonzero(labels == number)[:count]:
                Image.fromarray(images[place]).convert("RGB").save(target / f"{place:05}.png")


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    arguments = parser.parse_args()
    images = arguments.folder / "fashion-mnist"
    if not images.exists():
        unpack(arguments.data, images)
    tables = []
    for protocol, options in PROTOCOLS.items():
        output = arguments.folder / protocol
        command = [sys.executable, "-m", "attri.train.cli", "--data", str(images), "--protocol", protocol, *options]
        if not (output / "results.json").is_file():
            subprocess.run([*command, "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
        tables.append((output / "results.md").read_text())
    keep(Path(__file__), __doc__, "\n".join(tables))


if __name__ == "__main__":
    main()
