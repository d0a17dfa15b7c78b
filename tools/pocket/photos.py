"""Photographs in folders: which may be trained on, which are kept for measuring, and what is true of each class.

Clothing and TrashNet have no split of their own: 15% of each, chosen by a checksum of the file's name, are never
trained on. Caltech-101 is read only where a command names it.
"""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.pocket.concepts import Concept, plain, unique

SETS = ("grocery", "clothing", "trashnet")
HELD_OUT = 15  # percent
FRUIT = "apple avocado banana kiwi lemon lime mango melon nectarine orange papaya passion_fruit peach pear pineapple"
FRUIT += " plum pomegranate red_grapefruit satsumas"
VEGETABLES = "asparagus aubergine cabbage carrots cucumber garlic ginger leek mushroom onion pepper potato red_beet"
VEGETABLES += " tomato zucchini"
DAIRY = "milk sour_milk sour_cream yoghurt"
SYNONYMS = {
    "aubergine": "eggplant",
    "bell pepper": "sweet pepper, capsicum, paprika",
    "brown cap mushroom": "mushroom, champignon",
    "cantaloupe": "cantaloupe melon",
    "carrots": "carrot",
    "kiwi": "kiwi fruit",
    "red beet": "beetroot, beet",
    "satsumas": "satsuma, mandarin, tangerine",
    "zucchini": "courgette",
    "floury potato": "potato",
    "solid potato": "potato",
    "t-shirt": "t shirt, tee shirt",
    "long-sleeved shirt": "long sleeved shirt, long sleeve shirt",
    "outerwear": "coat, jacket",
    "pants": "trousers",
    "polo": "polo shirt",
    "shoes": "shoe, footwear",
    "hoodie": "hooded sweater",
    "undershirt": "tank top, singlet",
    "dress": "gown, woman's clothes",
    "cardboard": "cardboard box, carton",
    "glass": "glass bottle, bottle",
    "metal": "metal can, can, tin",
    "paper": "sheet of paper",
    "plastic": "plastic bottle, plastic waste",
    "trash": "litter, rubbish bag",
}
CALTECH_SYNONYMS = {
    "motorbike": "motorcycle, motorbikes",
    "cellphone": "mobile phone, cell phone",
    "car side": "car",
    "cougar body": "cougar",
    "cougar face": "cougar",
    "crocodile head": "crocodile",
    "flamingo head": "flamingo",
    "water lilly": "water lily",
    "windsor chair": "chair",
    "wild cat": "wildcat",
}


@dataclass(frozen=True)
class Photo:
    """One photograph of a set."""

    path: Path
    part: str  # train, val or test
    name: str  # its class
    concept: Concept
    coarse: str = ""  # the class above, where the set has one


def photos_of_set(name: str, folder: Path) -> Iterator[Photo]:
    """Every photograph of grocery, clothing, trashnet or caltech101, in the order of its list."""
    if name == "grocery":
        for row in rows(folder / "labels.csv"):
            concept = grocery(row["class"], row["coarse_class"])
            yield Photo(folder / row["file"], row["split"], row["class"], concept, row["coarse_class"])
    elif name == "caltech101":
        for row in rows(folder / "split.csv"):
            if row["where"] == "here":
                yield Photo(folder / row["file"], row["split"], row["class"], caltech(row["class"]))
    elif name == "clothing":
        for row in rows(folder / "labels.csv"):
            yield Photo(folder / row["file"], chance_part(row["file"]), row["class"], clothing(row["class"]))
    elif name == "trashnet":
        for path in sorted(folder.rglob("*.jpg")):
            file = path.relative_to(folder).as_posix()
            yield Photo(path, chance_part(file), path.parent.name, waste(path.parent.name))
    else:
        raise ValueError(f"no set of photographs is called {name}")


def rows(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chance_part(file: str) -> str:
    """The part that a file falls into, the same for ever."""
    return "test" if zlib.crc32(file.encode()) % 100 < HELD_OUT else "train"


def grocery(name: str, coarse: str) -> Concept:
    """A class of goods with its coarse class; a brand's carton is a package of what is in it."""
    words, tags = synonyms(name), ["grocery", "groceries", "food"]
    place = coarse.replace(" ", "_")
    if place in FRUIT.split() or place in VEGETABLES.split():
        kinds = ["fruit" if place in FRUIT.split() else "vegetable", coarse, *synonyms(coarse)[1:]]
        words += [f"{name} {coarse}"] if coarse in ("apple", "pear", "melon") and coarse not in name else []
        words += synonyms("bell pepper")[1:] if "bell pepper" in name else []
    else:
        kinds = ["package", "carton", coarse, f"carton of {coarse}", f"package of {coarse}"]
        tags += ["drink", "beverage"] if "milk" in coarse or coarse == "juice" else []
        tags += ["dairy product"] if place in DAIRY.split() else []
        tags += [name.split()[0]]  # the brand
        for part in ("apple juice", "orange juice", "vanilla", "strawberry", "blueberry", "grapefruit", "natural"):
            tags += [part] if part in name else []
    own, wider, others = unique(words, kinds, tags)
    return Concept(own, wider, others, coloured=True)


def clothing(name: str) -> Concept:
    """A kind of clothes."""
    return Concept(unique(synonyms(name))[0], ("clothing", "clothes", "garment"), ("fashion", "fabric"))


def waste(name: str) -> Concept:
    """A material that was thrown away."""
    return Concept(unique(synonyms(name))[0], ("waste", "garbage", "rubbish", "recycling"), (f"{name} waste",))


def caltech(name: str) -> Concept:
    """A class of Caltech-101."""
    return Concept(unique((name, *CALTECH_SYNONYMS.get(name, "").split(", ")))[0], (), ())


def synonyms(name: str) -> list[str]:
    """The name as it is written, in plain words, and its other names."""
    return [name, plain(name), *SYNONYMS.get(name, "").split(", ")]
