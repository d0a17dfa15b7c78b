"""Collect the pocket data: unpacked npm packages in, one file of images and words out.

    python -m tools.pocket.collect PACKAGES --cache emoji.npz

PACKAGES holds one folder per package of STYLES; train/pocket/README.md has the lines that fetch them. SVG needs
`pip install resvg-py`, which nothing else in attri uses.
"""

import argparse
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.pocket.words import Emoji, normal_hexcode, read_emoji

SIZE = 64
# Folder of PACKAGES and licence of the artwork. The unseen styles are for evaluation and for the image folders only.
# FxEmoji is left out: many of its drawings share their composition and colours with Twemoji's, which must stay unseen.
STYLES = {
    "noto": ("emoji-datasource-google", "Apache-2.0"),
    "noto-v1": ("iconify-noto-v1", "Apache-2.0"),
    "fluent": ("iconify-fluent-emoji", "MIT"),
    "fluent-flat": ("iconify-fluent-emoji-flat", "MIT"),
    "fluent-3d": ("lobehub-fluent-emoji-3d", "MIT"),
    "fluent-line": ("iconify-fluent-emoji-high-contrast", "MIT"),
    "emojione": ("iconify-emojione", "CC-BY-4.0"),
    "emojione-line": ("iconify-emojione-monotone", "CC-BY-4.0"),
    "streamline": ("iconify-streamline-emojis", "CC-BY-4.0"),
}
UNSEEN = {"twemoji": ("emoji-datasource-twitter", "CC-BY-4.0"), "openmoji": ("openmoji", "CC-BY-SA-4.0")}
NAMES = list(STYLES) + list(UNSEEN)

RgbaImage = NDArray[np.uint8]  # [SIZE, SIZE, 4], RGBA, alpha not premultiplied
Found = Iterator[tuple[int, bool, RgbaImage]]  # index of the emoji, whether it is a skin tone, its image


def render(svg: str) -> RgbaImage:
    """An SVG document as an image."""
    import resvg_py

    png: Any = resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE, height=4 * SIZE, skip_system_fonts=True)
    return shrink(Image.open(io.BytesIO(bytes(png))))


def shrink(image: Image.Image) -> RgbaImage:
    """Fit an image into the square, centred; `reduce` first, because 4x oversampling keeps thin lines."""
    image = image.convert("RGBA")
    if max(image.size) != SIZE or image.width != image.height:
        image.thumbnail((SIZE, SIZE), Image.Resampling.BOX if max(image.size) % SIZE == 0 else Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return np.asarray(canvas)


def from_datasource(folder: Path, emoji: list[Emoji]) -> Found:
    """The images of an emoji-datasource package; skin tones come with the emoji that they vary."""
    drawings = next((folder / "img").glob("*/64"))
    for index, one in enumerate(emoji):
        for name in (one.image, *one.variants):
            if (drawings / name).exists():
                yield index, name != one.image, shrink(Image.open(drawings / name))


def from_files(folder: Path, emoji: list[Emoji]) -> Found:
    """Images named by hexcode: WebP files of fluent-emoji-3d, SVG files of OpenMoji."""
    known = {one.hexcode: index for index, one in enumerate(emoji)}
    if (folder / "assets").exists():
        # The packer added flags that Microsoft's set lacks and whose origin is not said: keep what fluent-flat has too.
        known = {code: known[code] for code in microsoft(folder.parent) if code in known}
    for path in sorted(folder.rglob("assets/*.webp")) + sorted((folder / "color").rglob("*.svg")):
        index = known.get(normal_hexcode(path.stem))
        if index is not None:
            yield index, False, render(path.read_text()) if path.suffix == ".svg" else shrink(Image.open(path))


def from_iconify(folder: Path, emoji: list[Emoji], index: dict[str, int]) -> Found:
    """The icons of an iconify package whose name is one of ours. `-1`, `-2` number several drawings of one thing."""
    icons = json.loads((folder / "icons.json").read_text())
    done = set()
    for name in [*icons["icons"], *icons.get("aliases", {})]:
        found = index.get(key(name), index.get(key(re.sub(r"-\d$", "", name))))
        alias = icons.get("aliases", {}).get(name, {})
        body = alias.get("parent", name), alias.get("hFlip", False)
        if found is not None and body not in done and body[0] in icons["icons"]:
            done.add(body)
            yield found, False, render(document(icons, *body))


def document(icons: dict[str, Any], name: str, flip: bool) -> str:
    """One icon as an SVG document. Its own size wins over that of the set."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{icon["body"]}</g>' if flip else icon["body"]
    name_spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {name_spaces} viewBox="{left} {top} {width} {height}">{body}</svg>'


def key(name: str) -> str:
    """What is left of a name when packages disagree about accents, hyphens and `flag for`."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]", "", letters.replace("flag-for-", "flag-of-"))


def index_names(packages: Path, emoji: list[Emoji]) -> dict[str, int]:
    """From `key` of every name to the emoji; fluent-emoji-flat's table adds the names that icon sets use."""
    known = {one.hexcode: index for index, one in enumerate(emoji)}
    index = {key(name): number for number, one in reversed(list(enumerate(emoji))) for name in one.names}
    for code, name in microsoft(packages).items():
        if code in known:
            index.setdefault(key(name), known[code])
    return index


def microsoft(packages: Path) -> dict[str, str]:
    """Hexcode and icon name of what Microsoft's own set holds."""
    table: dict[str, str] = json.loads((packages / STYLES["fluent-flat"][0] / "chars.json").read_text())
    return {normal_hexcode(code): name for code, name in table.items()}


def images_of_style(style: str, packages: Path, emoji: list[Emoji]) -> Found:
    """Every image of one style."""
    folder = packages / (STYLES | UNSEEN)[style][0]
    if (folder / "icons.json").exists():
        return from_iconify(folder, emoji, index_names(packages, emoji))
    return from_datasource(folder, emoji) if (folder / "emoji.json").exists() else from_files(folder, emoji)


def collect(packages: Path, cache: Path) -> None:
    """Write every image of every style, with the emoji table, to one .npz file."""
    emoji = read_emoji(packages / STYLES["noto"][0], packages / UNSEEN["openmoji"][0])
    rows: list[tuple[int, int, bool]] = []
    pixels: list[RgbaImage] = []
    for number, style in enumerate(NAMES):
        for index, variant, image in images_of_style(style, packages, emoji):
            if variant and style in UNSEEN:
                continue
            rows.append((number, index, variant))
            pixels.append(image)
        print(f"{style:14} {sum(row[0] == number for row in rows):5} images", flush=True)
    table = json.dumps([asdict(one) for one in emoji])
    np.savez(cache, rows=np.array(rows, np.int32), pixels=np.stack(pixels), emoji=np.array(table))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder with the unpacked npm packages")
    parser.add_argument("--cache", type=Path, default=Path("emoji.npz"), help="training array file to write")
    arguments = parser.parse_args()
    collect(arguments.packages, arguments.cache)


if __name__ == "__main__":
    main()
