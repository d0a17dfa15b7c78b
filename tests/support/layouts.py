"""Small trees in the layouts of CoOp's datasets, made of links to real images, and what must be read from them.

Told again from CoOp's DATASETS.md and the datasets themselves, on purpose without a look at `attri.train.data.coop`.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

# pattern of the images' paths below the root, the path of the split file cuts the first part off; class name in the
# split file; the same in words
Class = tuple[str, str, str]
SPLIT_FILES: dict[str, tuple[str, list[Class]]] = {
    "Caltech101": (
        "101_ObjectCategories/",
        [
            ("Faces/image_{:04}.jpg", "face", "face"),
            ("Leopards/image_{:04}.jpg", "leopard", "leopard"),
            ("car_side/image_{:04}.jpg", "car_side", "car side"),
            ("yin_yang/image_{:04}.jpg", "yin_yang", "yin yang"),
        ],
    ),
    "OxfordPets": (
        "images/",
        [
            ("Abyssinian_{}.jpg", "abyssinian", "abyssinian"),
            ("american_bulldog_{}.jpg", "american_bulldog", "american bulldog"),
            ("Bengal_{}.jpg", "bengal", "bengal"),
            ("yorkshire_terrier_{}.jpg", "yorkshire_terrier", "yorkshire terrier"),
        ],
    ),
    "StanfordCars": (
        "",
        [
            ("cars_train/{:05}.jpg", "2012 AM General Hummer SUV", "2012 AM General Hummer SUV"),
            ("cars_train/1{:05}.jpg", "1993 smart fortwo", "1993 smart fortwo"),
            ("cars_test/{:05}.jpg", "2012 Acura RL Sedan", "2012 Acura RL Sedan"),
            ("cars_test/1{:05}.jpg", "2012 Audi R8", "2012 Audi R8"),
        ],
    ),
    "OxfordFlowers": (
        "jpg/",
        [
            ("image_{:05}.jpg", "pink primrose", "pink primrose"),
            ("image_1{:04}.jpg", "bird of paradise", "bird of paradise"),
            ("image_2{:04}.jpg", "colt's foot", "colt's foot"),
            ("image_3{:04}.jpg", "black-eyed susan", "black-eyed susan"),
        ],
    ),
    "Food101": (
        "images/",
        [
            ("apple_pie/{}.jpg", "apple_pie", "apple pie"),
            ("baby_back_ribs/{}.jpg", "baby_back_ribs", "baby back ribs"),
            ("baklava/{}.jpg", "baklava", "baklava"),
            ("waffles/{}.jpg", "waffles", "waffles"),
        ],
    ),
    "SUN397": (
        "SUN397/",
        [
            ("a/abbey/sun_{}.jpg", "abbey", "abbey"),
            ("a/apartment_building/outdoor/sun_{}.jpg", "outdoor apartment_building", "outdoor apartment building"),
            ("c/church/indoor/sun_{}.jpg", "indoor church", "indoor church"),
            ("c/church/outdoor/sun_{}.jpg", "outdoor church", "outdoor church"),
        ],
    ),
    "DescribableTextures": (
        "images/",
        [
            ("banded/banded_{:04}.jpg", "banded", "banded"),
            ("dotted/dotted_{:04}.jpg", "dotted", "dotted"),
            ("polka-dotted/polka-dotted_{:04}.jpg", "polka-dotted", "polka-dotted"),
            ("zigzagged/zigzagged_{:04}.jpg", "zigzagged", "zigzagged"),
        ],
    ),
    "EuroSAT": (
        "2750/",
        [
            ("AnnualCrop/AnnualCrop_{}.jpg", "Annual Crop Land", "Annual Crop Land"),
            ("Highway/Highway_{}.jpg", "Highway or Road", "Highway or Road"),
            ("River/River_{}.jpg", "River", "River"),
            ("SeaLake/SeaLake_{}.jpg", "Sea or Lake", "Sea or Lake"),
        ],
    ),
    "UCF101": (
        "UCF-101-midframes/",
        [
            ("Apply_Eye_Makeup/v_ApplyEyeMakeup_g{:02}_c01.jpg", "Apply_Eye_Makeup", "Apply Eye Makeup"),
            ("Basketball/v_Basketball_g{:02}_c01.jpg", "Basketball", "Basketball"),
            ("Tai_Chi/v_TaiChi_g{:02}_c01.jpg", "Tai_Chi", "Tai Chi"),
            ("Yo_Yo/v_YoYo_g{:02}_c01.jpg", "Yo_Yo", "Yo Yo"),
        ],
    ),
}
AIRCRAFT = ["707-320", "A300B4", "Cessna 172", "F/A-18"]
IMAGENET = {
    "n01440764": "tench",
    "n02012849": "crane bird",
    "n03773504": "missile",
    "n04008634": "missile",  # ImageNet's names as CLIP has them are not unique
    "n04356056": "sunglasses",
}
PROMPTS = {  # of the first class
    "Caltech101": "a photo of a face.",
    "OxfordPets": "a photo of a abyssinian, a type of pet.",
    "StanfordCars": "a photo of a 2012 AM General Hummer SUV.",
    "OxfordFlowers": "a photo of a pink primrose, a type of flower.",
    "Food101": "a photo of apple pie, a type of food.",
    "FGVCAircraft": "a photo of a 707-320, a type of aircraft.",
    "SUN397": "a photo of a abbey.",
    "DescribableTextures": "banded texture.",
    "EuroSAT": "a centered satellite photo of Annual Crop Land.",
    "UCF101": "a photo of a person doing Apply Eye Makeup.",
    "ImageNet": "a photo of a tench.",
    "ImageNetV2": "a photo of a tench.",
    "ImageNetSketch": "a photo of a tench.",
    "ImageNetA": "a photo of a tench.",
    "ImageNetR": "a photo of a tench.",
}
# part: how many images of each class, and in which order the classes first appear
COUNTS = {
    "train": ((7, 6, 5, 3), (2, 0, 3, 1)),
    "val": ((6, 6, 6, 2), (1, 3, 0, 2)),
    "test": ((2, 2, 2, 2), (3, 2, 1, 0)),
}

Item = tuple[str, int]


@dataclass(frozen=True)
class Tree:
    """What must be read: classes in words, and (path below the root, number of the class) in order."""

    root: Path
    classes: list[str]
    train: list[Item]
    val: list[Item]
    test: list[Item]


class Builder:
    def __init__(self, root: Path, images: list[Path]):
        self.root, self.images = root, itertools.cycle(images)
        root.mkdir(parents=True)

    def image(self, name: str) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(next(self.images))
        return name

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def parts(self, patterns: list[str]) -> dict[str, list[Item]]:
        """Every part with its counts; a class's images count down, so that no order is the sorted one."""
        parts: dict[str, list[Item]] = {}
        for base, (part, (counts, order)) in zip((100, 200, 300), COUNTS.items(), strict=True):
            every = [
                (patterns[c].format(base + counts[c] - i), c)
                for i in range(max(counts))
                for c in order
                if i < counts[c]
            ]
            parts[part] = [(self.image(name), c) for name, c in every]
        return parts

    def folders(self, where: str, names: list[str], count: int) -> list[Item]:
        """Sorted class folders with sorted images, and files beside them that are no classes."""
        items = [(self.image(f"{where}/{f}/{f}_{i}.JPEG"), c) for c, f in enumerate(names) for i in range(count)]
        self.write(f"{where}/README.txt", "not a class")
        (self.root / where / ".cache").mkdir()
        return items


def lay_out(name: str, root: Path, images: list[Path]) -> Tree:
    """Build the dataset `name` at `root`, whatever that is called."""
    build = Builder(root, images)
    if name in SPLIT_FILES:
        folder, classes = SPLIT_FILES[name]
        parts = build.parts([folder + pattern for pattern, _, _ in classes])
        split = {part: [[p.removeprefix(folder), c, classes[c][1]] for p, c in items] for part, items in parts.items()}
        build.write(f"split_zhou_{name}.json", json.dumps(split, indent=4))
        return Tree(root, [words for _, _, words in classes], **parts)
    if name == "FGVCAircraft":
        parts = build.parts([f"images/{c}{{:05}}.jpg" for c in range(4)])
        build.write("variants.txt", "".join(f"{variant}\n" for variant in AIRCRAFT))
        for part, items in parts.items():
            build.write(f"images_variant_{part}.txt", "".join(f"{Path(p).stem} {AIRCRAFT[c]}\n" for p, c in items))
        return Tree(root, AIRCRAFT, **parts)
    build.write("classnames.txt", "".join(f"{folder} {words}\n" for folder, words in IMAGENET.items()))
    if name == "ImageNet":
        train = build.folders("images/train", list(IMAGENET), 6)
        return Tree(root, list(IMAGENET.values()), train, [], build.folders("images/val", list(IMAGENET), 2))
    if name == "ImageNetV2":
        numbers = [str(number) for number in range(len(IMAGENET))]
        test = build.folders("imagenetv2-matched-frequency-format-val", numbers, 2)
        return Tree(root, list(IMAGENET.values()), [], [], test)
    folder = {"ImageNetSketch": "images", "ImageNetA": "imagenet-a", "ImageNetR": "imagenet-r"}[name]
    own = list(IMAGENET)[:: 1 if name == "ImageNetSketch" else 2]  # A and R have a part of the classes
    return Tree(root, [IMAGENET[folder] for folder in own], [], [], build.folders(folder, own, 2))
