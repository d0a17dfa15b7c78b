"""Open Clip Art Library, public domain, as Debian packs it: titles are names, keywords are tags, folders are kinds."""

import re
from collections.abc import Iterator
from pathlib import Path

from tools.pocket.concepts import Concept, plain
from tools.pocket.render import RgbaImage, render

# The kinds of a folder. What is in none of them has no kind; the deepest folder wins.
KINDS = {
    "animals": "animal",
    "animals/bugs": "bug, insect, animal",
    "animals/amphibian": "amphibian, animal",
    "animals/dinosaurs": "dinosaur, reptile, animal",
    "animals/mammals": "mammal, animal",
    "animals/birds": "bird, animal",
    "animals/fish": "sea animal, fish, animal",
    "buildings/furniture": "furniture, household item",
    "buildings": "building",
    "containers": "container",
    "electronics": "electronics",
    "food": "food",
    "food/beverages": "drink, beverage, food and drink",
    "food/desserts": "dessert, sweet, food",
    "food/fruit": "fruit, food",
    "food/vegetables": "vegetable, food",
    "office/telephone": "telephone, phone",
    "people": "person, human, people",
    "people/clothing": "clothing, clothes, garment",
    "people/bodypart": "body part, body",
    "people/smilies": "smiling face, face",
    "plants": "plant",
    "plants/flowers": "flower, blossom, plant",
    "plants/trees": "tree, plant",
    "recreation/games": "game, toy",
    "recreation/music": "musical instrument, music",
    "recreation/sports": "sport equipment, sport",
    "recreation/toys": "toy",
    "science": "science",
    "signs_and_symbols/clocks": "clock, clock face, time",
    "signs_and_symbols/flags": "flag, banner",
    "signs_and_symbols/money": "money, cash",
    "signs_and_symbols/weather": "weather, sky",
    "tools": "tool",
    "tools/weapons": "weapon, tool",
    "transportation/boating": "boat, ship, water vehicle, vehicle",
    "transportation/vehicles": "ground vehicle, vehicle, transport",
    "transportation/roadsigns": "public sign, sign, road sign",
}
# Desktop themes, geometric series, buttons, logos and drawings filed as special name no thing that can be seen.
OUTSIDE = r"^(computer|shapes|special|buttons|logos|unsorted/duplicates|recreation/games/cards|signs_and_symbols/led)"
NO_TAG = (
    "unsorted|clip ?art|media|public domain|image|svg|png|unchecked|externally|signs and symbols|author|aiga|cartoon"
)
FOLDER = "openclipart-svg/usr/share/openclipart/svg"
LARGEST = 400_000  # bytes; a drawing above takes long and is mostly traced noise


def images_of_library(folder: Path) -> Iterator[tuple[Concept, RgbaImage]]:
    """Every drawing whose title says what it shows."""
    for path in sorted(folder.rglob("*.svg")):
        place = path.relative_to(folder).parent.as_posix()
        if re.match(OUTSIDE, place) or path.stat().st_size > LARGEST:
            continue
        svg = path.read_text(encoding="utf-8", errors="replace")
        concept = describe(svg, place)
        if concept is None:
            continue
        try:
            image = render(svg)
        except ValueError:  # an SVG that names no size, or is none
            continue
        if image[..., 3].any():
            yield concept, image


def describe(svg: str, place: str) -> Concept | None:
    """The words of one drawing, None where its title is no phrase of up to five words."""
    work = svg.partition("<dc:publisher")[0]  # what follows are titles of people
    title = re.search(r"<dc:title>([^<]*)", work)
    said = re.sub(r"\s*\b(\d+|icon|clip ?art|cliparts?|svg|image)\b", "", plain(title.group(1))) if title else ""
    said = re.sub(r"[^a-z' ]", "", re.sub(r"\(.*|\bby .*|\.", "", said)).strip()
    if not re.search("[a-z]{3}", said) or len(said.split()) > 5:
        return None
    tags = [plain(tag) for tag in re.findall(r"<rdf:li>([^<]*)", work)]
    tags = [tag for tag in tags if re.fullmatch("[a-z' ]{3,30}", tag) and not re.search(NO_TAG, tag)]
    kinds = next((KINDS[part] for part in parents(place) if part in KINDS), "")
    directed = re.search(r"\b(left|right|arrow|sign|flag)\b", said) or "flags" in place or "sign" in kinds
    return Concept((said,), tuple(kinds.split(", ")) if kinds else (), tuple(tags[:8]), flippable=not directed)


def parents(place: str) -> list[str]:
    """A folder's path and those above it: a/b -> [a/b, a]."""
    parts = place.split("/")
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
