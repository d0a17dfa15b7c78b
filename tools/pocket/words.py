"""The emoji that the pocket backbone is trained on, and the phrases that are true of each.

Words come from three places: the names and short names of emoji-datasource, the CLDR short name and keywords that
OpenMoji's table carries, and SUBCATEGORIES, our plain words for Unicode's sub-categories.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tools.pocket.concepts import Concept, plain

# The first word names the sub-category in the evaluation; the others are only further captions.
SUBCATEGORIES = {
    "face-smiling": "smiling face, happy face, face",
    "face-affection": "loving face, face",
    "face-tongue": "face with tongue out, face",
    "face-hand": "face with hand, face",
    "face-neutral-skeptical": "neutral face, skeptical face, face",
    "face-sleepy": "sleepy face, tired face, face",
    "face-unwell": "sick face, unwell face, face",
    "face-hat": "face with hat, face",
    "face-glasses": "face with glasses, face",
    "face-concerned": "worried face, sad face, unhappy face, face",
    "face-negative": "angry face, bad face, face",
    "face-costume": "costume face, mask, face",
    "cat-face": "cat face, cat, animal",
    "monkey-face": "monkey face, monkey, animal",
    "heart": "heart, love",
    "emotion": "emotion symbol, comic symbol",
    "hand-fingers-open": "open hand, hand",
    "hand-fingers-partial": "hand sign, hand gesture, hand",
    "hand-single-finger": "pointing finger, pointing hand, finger, hand",
    "hand-fingers-closed": "fist, hand",
    "hands": "two hands, hands",
    "hand-prop": "hand with object, hand",
    "body-parts": "body part, part of the body, body",
    "person": "person, human",
    "person-gesture": "person making a gesture, person, gesture",
    "person-role": "person at work, worker, profession, job, person",
    "person-fantasy": "fantasy person, fantasy creature, person",
    "person-activity": "active person, person in motion, person",
    "person-sport": "athlete, person doing sport, sportsperson, person",
    "person-resting": "resting person, person",
    "family": "family, couple, people",
    "person-symbol": "silhouette, person symbol, footprint",
    "skin-tone": "skin tone, skin colour, skin color",
    "animal-mammal": "mammal, animal, wild animal",
    "animal-bird": "bird, animal",
    "animal-amphibian": "amphibian, animal",
    "animal-reptile": "reptile, animal",
    "animal-marine": "sea animal, marine animal, fish, animal",
    "animal-bug": "bug, insect, small animal",
    "plant-flower": "flower, blossom, plant",
    "plant-other": "plant, tree, leaf, nature",
    "food-fruit": "fruit, food",
    "food-vegetable": "vegetable, food",
    "food-prepared": "meal, dish, prepared food, food",
    "food-asian": "asian food, asian dish, food",
    "food-sweet": "dessert, sweet, sweet food, candy, food",
    "drink": "drink, beverage",
    "dishware": "dishware, cutlery, tableware",
    "place-map": "map, globe",
    "place-geographic": "landscape, place",
    "place-building": "building, house, architecture",
    "place-religious": "place of worship, religious building, building",
    "place-other": "scene, place, amusement",
    "transport-ground": "ground vehicle, road vehicle, vehicle, transport",
    "transport-water": "boat, ship, water vehicle, vehicle",
    "transport-air": "aircraft, air vehicle, flying vehicle, vehicle",
    "hotel": "hotel object",
    "time": "clock, clock face, time",
    "sky & weather": "weather, sky",
    "event": "celebration, party, event",
    "award-medal": "medal, award, trophy",
    "sport": "sport equipment, sport, ball",
    "game": "game, toy, playing card",
    "arts & crafts": "art supply, arts and crafts",
    "clothing": "clothing, clothes, garment, accessory",
    "sound": "sound symbol, sound, loudspeaker",
    "music": "music equipment, music",
    "musical-instrument": "musical instrument, instrument",
    "phone": "telephone, phone",
    "computer": "computer equipment, computer, electronics",
    "light & video": "camera or light, film equipment, light",
    "book-paper": "book, paper, document",
    "money": "money, cash",
    "mail": "mail, post, letter",
    "writing": "pen, writing tool, writing",
    "office": "office supply, stationery",
    "lock": "lock, key",
    "tool": "tool, hand tool",
    "science": "science equipment, laboratory equipment, science",
    "medical": "medical item, medicine",
    "household": "household item, furniture, household object",
    "other-object": "other object, object",
    "transport-sign": "public sign, sign",
    "warning": "warning sign, prohibition sign, sign",
    "arrow": "arrow, direction arrow",
    "religion": "religious symbol, religion",
    "zodiac": "zodiac sign, star sign",
    "av-symbol": "media button, player button, button",
    "gender": "gender symbol",
    "math": "mathematical symbol, math",
    "punctuation": "punctuation mark, punctuation",
    "currency": "currency symbol, currency",
    "other-symbol": "symbol, mark",
    "keycap": "keycap, number key, digit",
    "alphanum": "letter button, square with letters, lettering",
    "geometric": "geometric shape, shape, coloured shape",
    "flag": "flag, banner",
    "country-flag": "national flag, country flag, flag",
    "subdivision-flag": "regional flag, flag",
}


@dataclass(frozen=True)
class Emoji:
    """One emoji: its hexcode without variation selectors, its names, and everything else that is true of it."""

    hexcode: str
    image: str  # file name in emoji-datasource, also of Twemoji
    variants: tuple[str, ...]  # the file names of its skin tones
    subcategory: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]  # SUBCATEGORIES in order, so that the first is the plain name of the sub-category
    tags: tuple[str, ...]

    @property
    def coloured(self) -> bool:
        """Whether its colour is what tells it from another emoji."""
        return re.search(rf"\b({COLOURS})\b", " ".join(self.names)) is not None or "flag" in self.subcategory

    @property
    def flippable(self) -> bool:
        """Whether the mirrored image still shows the same thing."""
        directed = re.search(r"\b(left|right|clockwise|north|south|east|west|forward|reverse)\b", " ".join(self.names))
        return directed is None and self.subcategory not in UNFLIPPABLE.split(" ")

    def concept(self) -> Concept:
        """What training uses of it."""
        return Concept(self.names, self.kinds, self.tags, self.coloured, self.flippable)


COLOURS = "red|orange|yellow|green|blue|purple|brown|black|white|grey|gray|pink|tone"
UNFLIPPABLE = "arrow alphanum keycap time math punctuation currency flag country-flag subdivision-flag "
UNFLIPPABLE += "zodiac av-symbol transport-sign warning place-map other-symbol"


def normal_hexcode(code: str) -> str:
    """Upper case without the variation selector, so that every source agrees: 2764-fe0f -> 2764."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def read_emoji(datasource: Path, openmoji: Path) -> list[Emoji]:
    """Every emoji of emoji-datasource, in its order, with words from both unpacked npm packages."""
    cldr = {normal_hexcode(row["hexcode"]): row for row in json.loads((openmoji / "data/openmoji.json").read_text())}
    return [_emoji(row, cldr) for row in json.loads((datasource / "emoji.json").read_text())]


def _emoji(row: dict[str, object], cldr: dict[str, dict[str, str]]) -> Emoji:
    hexcode = normal_hexcode(str(row["unified"]))
    words = cldr.get(hexcode, {})
    # The rows are JSON that emoji-datasource has shaped so; `object` is all that mypy can know of it.
    short_names: list[str] = row["short_names"]  # type: ignore[assignment]
    variants: dict[str, dict[str, str]] = row.get("skin_variations", {})  # type: ignore[assignment]
    names = [plain(text) for text in (words.get("annotation", ""), str(row["name"]), *short_names)]
    if row["subcategory"] == "country-flag":
        country = plain(words["annotation"]).removeprefix("flag ")
        names = [f"flag of {country}", f"{country} flag"]
    tags = [plain(text) for text in words.get("tags", "").split(",")]
    kinds = tuple(SUBCATEGORIES[str(row["subcategory"])].split(", "))
    return Emoji(
        hexcode=hexcode,
        image=str(row["image"]),
        variants=tuple(variant["image"] for key, variant in sorted(variants.items()) if "-" not in key),
        subcategory=str(row["subcategory"]),
        names=tuple(dict.fromkeys(name for name in names if name)),
        kinds=kinds,
        tags=tuple(dict.fromkeys(tag for tag in tags if tag and tag not in (*names, *kinds))),
    )
