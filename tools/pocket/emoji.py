"""Emoji artwork in npm packages: nine styles to train on, two that stay unseen."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tools.pocket.concepts import key
from tools.pocket.render import RgbaImage, icon_document, render, shrink
from tools.pocket.words import Emoji, normal_hexcode

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
Found = Iterator[tuple[int, bool, RgbaImage]]  # index of the emoji, whether it is a skin tone, its image


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
            yield found, False, render(icon_document(icons, *body))


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
