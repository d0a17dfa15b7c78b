"""Collect the pocket data: unpacked packages and folders of photographs in, one file of images and words out.

    python -m tools.pocket.collect PACKAGES --photos PHOTOS --cache pocket.npz

PACKAGES holds one folder per package; train/pocket/README.md has the lines that fetch them. PHOTOS holds `grocery`,
`clothing` and `trashnet`. SVG needs `pip install resvg-py`, which nothing else in attri uses.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tools.pocket import clipart, emoji, furniture, icons, photos
from tools.pocket.concepts import Concept, Concepts
from tools.pocket.render import RgbaImage, open_square
from tools.pocket.words import Emoji, read_emoji

PHOTO_SIZE = 96  # larger than the model's input, so that a crop of it is still sharp
Found = Iterator[tuple[str, int, bool, RgbaImage]]  # style, index of the concept, whether it is a skin tone, its image


def collect(packages: Path, folder: Path, cache: Path) -> None:
    """Write every drawing and every training photograph, with the concepts that they show, to one .npz file."""
    known = read_emoji(packages / emoji.STYLES["noto"][0], packages / emoji.UNSEEN["openmoji"][0])
    concepts = Concepts([one.concept() for one in known], emoji.index_names(packages, known))
    styles, rows, pixels = [], [], []
    for style, concept, variant, image in drawings(packages, known, concepts):
        if style not in styles:
            styles.append(style)
            print(style, flush=True)
        rows.append((styles.index(style), concept, variant))
        pixels.append(image)
    photo_rows, photo_pixels = [], []
    for number, name in enumerate(photos.SETS):
        for photo in photos.photos_of_set(name, folder / name):
            if photo.part == "train":
                photo_rows.append((number, concepts.add(photo.concept, loosely=False)))
                photo_pixels.append(open_square(photo.path, PHOTO_SIZE))
    np.savez(
        cache,
        styles=np.array(styles),
        rows=np.array(rows, np.int32),
        pixels=np.stack(pixels),
        photo_rows=np.array(photo_rows, np.int32),
        photos=np.stack(photo_pixels),
        emoji=np.array(json.dumps([asdict(one) for one in known])),
        concepts=np.array(json.dumps([asdict(one) for one in concepts.all])),
    )


def drawings(packages: Path, known: list[Emoji], concepts: Concepts) -> Found:
    """Emoji of every style, clip art, renderings of furniture, icons. Of unseen styles no skin tones."""
    for style in (*emoji.STYLES, *emoji.UNSEEN):
        for index, variant, image in emoji.images_of_style(style, packages, known):
            if not (variant and style in emoji.UNSEEN):
                yield style, index, variant, image
    yield from named("furniture", furniture.images_of_catalogues(packages / "sweethome3d-furniture"), concepts)
    for style in icons.SETS:
        yield from named(style, icons.images_of_set(style, packages), concepts)
    yield from named("clipart", clipart.images_of_library(packages / clipart.FOLDER), concepts)


def named(style: str, images: Iterator[tuple[Concept, RgbaImage]], concepts: Concepts) -> Found:
    """The images of a source that names what it shows."""
    for concept, image in images:
        yield style, concepts.add(concept, loosely=True), False, image


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder with the unpacked packages")
    parser.add_argument("--photos", type=Path, required=True, help="folder with grocery, clothing and trashnet")
    parser.add_argument("--cache", type=Path, default=Path("pocket.npz"), help="training array file to write")
    arguments = parser.parse_args()
    collect(arguments.packages, arguments.photos, arguments.cache)


if __name__ == "__main__":
    main()
