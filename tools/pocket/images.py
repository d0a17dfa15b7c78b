"""Write the pocket image folders from the cache that collect wrote.

    python -m tools.pocket.images pocket.npz

IMAGES holds Twemoji, in train/ val/ test/ with no emoji in two of them; OTHER_STYLE holds OpenMoji's drawings of the
emoji in val/ and test/. Neither style is in the backbone's training.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from attri.train.pocket import IMAGES, OTHER_STYLE
from tools.pocket.concepts import from_table
from tools.pocket.render import RgbaImage
from tools.pocket.words import Emoji

# Class and the sub-categories it holds. People are left out: one drawing in several genders would be in two splits.
CLASSES = {
    "arrow": "arrow",
    "bird": "animal-bird",
    "bug": "animal-bug",
    "building": "place-building",
    "clothing": "clothing",
    "dessert": "food-sweet",
    "drink": "drink",
    "flower": "plant-flower",
    "fruit": "food-fruit",
    "ground_vehicle": "transport-ground",
    "hand": "hand-fingers-open, hand-fingers-partial, hand-single-finger, hand-fingers-closed",
    "heart": "heart",
    "household_item": "household",
    "mammal": "animal-mammal",
    "meal": "food-prepared, food-asian",
    "musical_instrument": "musical-instrument",
    "plant": "plant-other",
    "sea_animal": "animal-marine",
    "smiling_face": "face-smiling",
    "sport_equipment": "sport",
    "tool": "tool",
    "vegetable": "food-vegetable",
    "weather": "sky & weather",
    "worried_face": "face-concerned",
}
# Members of those sub-categories that a person would not put into the class, or that do not belong into an example.
OUTSIDERS = """
feather|wing|microbe|spider web|building construction|brick|rock|wood|statue of liberty|wedding|lipstick|gem stone
prayer beads|hair pick|folding hand fan|pouring liquid|ice|rosette|horizontal traffic light|vertical traffic light
construction|stop sign|oil drum|motorway|railway track|bus stop|station|fuel pump|police car light|wheel|middle finger
love letter|elevator|pig nose|paw prints|mushroom|empty nest|nest with eggs|thermometer|white cane|diving mask
"""
TRAIN, TEST = 16, 10  # the most of each; a small class keeps 8 for training, however few that leaves
LICENCES = {
    "twemoji": "Twemoji, Copyright Twitter, Inc and other contributors, licensed under CC BY 4.0:\n"
    "https://creativecommons.org/licenses/by/4.0/\n"
    "Source: https://github.com/jdecked/twemoji\nChanges: composed on white, cut to 64 pixels, sorted into folders.\n",
    "openmoji": "OpenMoji, the open-source emoji and icon project, licensed under CC BY-SA 4.0:\n"
    "https://creativecommons.org/licenses/by-sa/4.0/\n"
    "Source: https://openmoji.org\nChanges: rendered on white at 64 pixels, sorted into folders.\n"
    "These files, and what is made from them, are under the same licence.\n",
}


def split(members: list[Emoji], seed: int) -> dict[str, list[Emoji]]:
    """Deal the emoji of one class into train, val and test."""
    members = random.Random(seed).sample(members, len(members))
    train = min(TRAIN, max(8, round(0.6 * len(members))))
    val = train + max(1, min(4, (len(members) - train) // 4))
    return {"train": members[:train], "val": members[train:val], "test": members[val : val + TEST]}


def members_of(emoji: list[Emoji], name: str) -> list[Emoji]:
    """The emoji of one class."""
    outside = OUTSIDERS.strip().replace("\n", "|").split("|")
    return [one for one in emoji if one.subcategory in CLASSES[name].split(", ") and one.names[0] not in outside]


def write_png(image: RgbaImage, path: Path) -> None:
    """On white, because CLIP's own preprocessing drops alpha and would show what hides below it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    alpha = image[..., 3:].astype(np.float32) / 255
    flat = image[..., :3] * alpha + 255 * (1 - alpha)  # [H, W, 3]
    Image.fromarray(flat.round().astype(np.uint8)).save(path, optimize=True)


def write_images(cache: Path, seed: int = 0) -> None:
    """Write both trees into train/pocket/images, with a licence note in each."""
    shutil.rmtree(IMAGES.parent, ignore_errors=True)
    arrays = np.load(cache)
    emoji = from_table(Emoji, json.loads(str(arrays["emoji"])))
    styles, pixels = arrays["styles"].tolist(), arrays["pixels"]
    emoji_rows = [(n, *row) for n, row in enumerate(arrays["rows"].tolist()) if row[1] < len(emoji) and not row[2]]
    row = {(styles[style], emoji[index].hexcode): n for n, style, index, _ in emoji_rows}
    for name in CLASSES:
        parts = split(members_of(emoji, name), seed)
        print(f"{name:20} " + " ".join(f"{part} {len(members)}" for part, members in parts.items()))
        for part, members in parts.items():
            for one in members:
                write_png(pixels[row["twemoji", one.hexcode]], IMAGES / part / name / f"{one.hexcode}.png")
                if part != "train":
                    write_png(pixels[row["openmoji", one.hexcode]], OTHER_STYLE / name / f"{one.hexcode}.png")
    for style, text in LICENCES.items():
        (IMAGES.parent / style / "LICENSE").write_text(text)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="the file that collect wrote")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_images(arguments.cache, arguments.seed)


if __name__ == "__main__":
    main()
