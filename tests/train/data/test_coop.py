"""CoOp's layouts: what is read from them, that the few-shot subsets are the published ones, and what is refused."""

from __future__ import annotations

import json
import random

import pytest
from support.layouts import IMAGENET, PROMPTS, SPLIT_FILES, lay_out

from attri.runtime.errors import UsageError
from attri.runtime.images import load_image
from attri.runtime.labels import prompt
from attri.train.config import TEMPLATE, TrainConfig
from attri.train.data import read_data
from attri.train.data.templates import CUSTOM, DEFAULT, ENSEMBLE

TEST_ONLY = {"ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"}
DRAWN = sorted(set(PROMPTS) - TEST_ONLY)


@pytest.fixture
def build(tmp_path, image_files):
    return lambda name: lay_out(name, tmp_path / f"my copy of {name}", image_files)


def items(data, part):
    return [(p.path.relative_to(data.root).as_posix(), p.target) for p in getattr(data, part)]


def contents(root):
    """Every entry, with the time of its last change."""
    return {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


@pytest.mark.parametrize("name", PROMPTS)
def test_every_layout_is_read_as_it_lies_and_left_alone(build, name):
    tree = build(name)
    before = contents(tree.root.parent)
    folders = [path for path in before if path.is_dir() and path != tree.root.parent]
    for folder in folders:
        folder.chmod(0o555)
    try:
        data = read_data(tree.root)
        assert read_data(tree.root, shots=2).test == data.test
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert contents(tree.root.parent) == before
    assert (data.name, data.classes) == (name, tree.classes)
    for part in ("train", "val", "test"):
        assert items(data, part) == getattr(tree, part)
    assert prompt(data.template, data.classes[0]) == PROMPTS[name]
    assert all(load_image(p.path).width > 1 for p in (data.train[:1] + data.test[:1]))


def published_subset(parts, shots, seed):
    """The rule in slow motion, on Python's global stream as CoOp runs it."""
    random.seed(seed)
    subset = []
    for part, count in zip(parts, (shots, min(shots, 4)), strict=True):
        order = []
        for _, label in part:
            if label not in order:
                order.append(label)
        chosen = []
        for label in order:
            own = [item for item in part if item[1] == label]
            chosen += random.sample(own, count) if len(own) >= count else own
        subset.append(chosen)
    return subset


@pytest.mark.parametrize("name", DRAWN)
def test_few_shot_subsets_are_those_that_coop_draws(build, name):
    tree = build(name)
    for shots in (1, 2, 4, 5, 6, 16):
        for seed in (1, 2, 3):
            expected = published_subset((tree.train, tree.val), shots, seed)
            random.seed("somebody else's")
            state = random.getstate()
            data = read_data(tree.root, shots=shots, seed=seed)
            assert random.getstate() == state
            assert [items(data, "train"), items(data, "val")] == expected
            assert items(data, "test") == tree.test


def test_a_few_shot_subset_is_the_same_on_every_python(build):
    data = read_data(build("Food101").root, shots=2, seed=1)
    assert items(data, "train") == [
        ("images/baklava/104.jpg", 2),
        ("images/baklava/105.jpg", 2),
        ("images/apple_pie/105.jpg", 0),
        ("images/apple_pie/107.jpg", 0),
        ("images/waffles/102.jpg", 3),
        ("images/waffles/101.jpg", 3),
        ("images/baby_back_ribs/103.jpg", 1),
        ("images/baby_back_ribs/101.jpg", 1),
    ]


def test_halves_are_parted_after_the_draw(build):
    tree = build("UCF101")
    data = read_data(tree.root, shots=4, seed=2)
    train, val = published_subset((tree.train, tree.val), 4, 2)
    base, novel = data.halves()
    assert base.classes + novel.classes == tree.classes
    assert (base.name, base.template, novel.name) == (data.name, CUSTOM["UCF101"], data.name)
    for half, first in ((base, 0), (novel, 2)):
        for part, every in (("train", train), ("val", val), ("test", tree.test)):
            assert items(half, part) == [(path, c - first) for path, c in every if first <= c < first + 2]


def test_the_larger_half_is_base(build):
    base, novel = read_data(build("ImageNet").root).halves()
    assert (base.classes, novel.classes) == (["tench", "crane bird", "missile"], ["missile", "sunglasses"])
    assert {p.target for p in novel.train} == {0, 1} == {p.target for p in novel.test}


def test_labels_may_leave_numbers_out(build):
    root = build("EuroSAT").root
    change(root / "split_zhou_EuroSAT.json", lambda split: [relabel(split, {0: 11, 1: 3, 2: 7, 3: 2})])
    data = read_data(root)
    assert data.classes == ["Sea or Lake", "Highway or Road", "River", "Annual Crop Land"]
    assert {(p.path.parent.name, p.target) for p in data.test} == {
        ("SeaLake", 0),
        ("Highway", 1),
        ("River", 2),
        ("AnnualCrop", 3),
    }


def relabel(split, number):
    for entries in split.values():
        for entry in entries:
            entry[1] = number[entry[1]]


def change(file, how):
    split = json.loads(file.read_text(encoding="utf-8"))
    how(split)
    file.write_text(json.dumps(split), encoding="utf-8")


def first(part, place, value):
    """A change of one entry's path, label or name."""

    def how(split):
        split[part][0][place] = value

    return how


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            first("val", 0, "../images/apple_pie/101.jpg"),
            r"json: val\[0\]: the path '\.\./images/.*' leads out of .*/images$",
        ),
        (first("val", 0, "/etc/hostname"), r"val\[0\]: the path '/etc/hostname' leads out of"),
        (first("val", 0, ""), r"val\[0\]: the path '' leads out of"),
        (first("test", 1, "3"), r"json: test\[0\] is \['.*', '3', 'waffles'\], and not \[path, label, class name\]"),
        (first("test", 1, True), r"test\[0\] is .*True"),
        (first("test", 2, None), r"test\[0\] is .*None"),
        (first("test", 2, "baklava"), r"test\[0\] calls the label 3 'baklava', another entry 'waffles'"),
        (
            first("train", 0, "baklava/none.jpg"),
            r"names 49 images, of which 1 is missing, the first: .*/images/baklava/none.jpg$",
        ),
        (lambda split: split["test"].append(["x"]), r"test\[8\] is \['x'\]"),
        (lambda split: split["test"].append(7), r"test\[8\] is 7, and not"),
        (lambda split: split.pop("val"), r"json has no list 'val'"),
        (lambda split: split.update(train=[]), r"json has no list 'train'"),
        (lambda split: split.update(test={"0": 1}), r"json has no list 'test'"),
        (lambda split: split.update(train=split["train"][:1]), r"the class 'apple pie' has no training images"),
        (lambda split: relabel(split, dict.fromkeys(range(4), 0)), r"calls the label 0"),
    ],
)
def test_a_wrong_split_is_named(build, how, message):
    root = build("Food101").root
    change(root / "split_zhou_Food101.json", how)
    with pytest.raises(UsageError, match=message) as raised:
        read_data(root)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], r"json, line \d+: .*; the file is damaged"),
        (lambda data: b"", r"json, line 1: Expecting value"),
        (lambda data: data.decode().encode("utf-16"), r"json, line 1: this is not UTF-8"),
        (lambda data: data.decode().encode("utf-16-le"), r"json, line 1: a NUL byte"),
        (lambda data: data.replace(b"waffles", "wäffles".encode("latin-1")), r"json, line 14: this is not UTF-8"),
        (lambda data: b"[1]", r"json has no list 'train'"),
        (lambda data: b"[" * 200_000, r"json is nested too deep"),
    ],
)
def test_a_damaged_split_file_is_named(build, damage, message):
    file = build("Food101").root / "split_zhou_Food101.json"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=message):
        read_data(file.parent)


def test_a_split_file_with_a_byte_order_mark_is_read(build):
    tree = build("Food101")
    file = tree.root / "split_zhou_Food101.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert items(read_data(tree.root), "train") == tree.train


def test_all_missing_images_are_counted_before_any_draw(build):
    tree = build("OxfordPets")
    for name, _ in [*tree.train[:2], tree.val[0], tree.test[-1]]:
        (tree.root / name).unlink()
    with pytest.raises(UsageError, match=rf"49 images, of which 4 are missing, the first: .*/{tree.train[0][0]}$"):
        read_data(tree.root, shots=1)


@pytest.mark.parametrize("name", sorted({*SPLIT_FILES, "FGVCAircraft"} - {"StanfordCars"}))  # its paths start at root
def test_lists_without_images_say_which_folder_is_missing(build, name):
    tree = build(name)
    folder = SPLIT_FILES.get(name, ("images/",))[0].rstrip("/")
    (tree.root / folder).rename(tree.root / "elsewhere")
    with pytest.raises(UsageError, match=f"has the lists of {name}, but no folder {folder} "):
        read_data(tree.root)


@pytest.mark.parametrize("name", [name for name in PROMPTS if name not in ("StanfordCars", "EuroSAT")])
def test_images_without_their_lists_are_not_taken_for_classes(build, name):
    root = build(name).root
    folder = next(path for path in root.iterdir() if path.is_dir())
    for file in [*root.glob("*.json"), *root.glob("*.txt")]:
        file.unlink()
    (root / "annotations").symlink_to(folder)  # such as the masks of OxfordPets: images too
    if name in ("ImageNetV2", "ImageNetA", "ImageNetR"):  # known by the folder alone
        message = "classnames.txt does not exist"
    else:
        message = rf"images in {folder.name}/, but none of the lists that go with it: split_zhou_\*.json, .*names.txt"
    with pytest.raises(UsageError, match=message):
        read_data(root)


def test_two_layouts_in_one_folder_are_refused(build):
    root = build("Food101").root
    (root / "split_zhou_OxfordPets.json").write_text("{}")
    with pytest.raises(UsageError, match="holds OxfordPets and Food101: give each its own folder"):
        read_data(root)


def test_the_folder_of_all_datasets_is_not_a_dataset(build):
    parent = build("Food101").root.parent
    build("ImageNetA")
    with pytest.raises(UsageError, match=r"not classes: name one of them \(my copy of Food101, my copy of ImageNetA\)"):
        read_data(parent)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("variants.txt", "", "variants.txt is empty"),
        ("variants.txt", "707-320\nA300B4\n", r"train.txt, line 1: 'Cessna 172' is not in variants.txt"),
        ("images_variant_val.txt", "\n\n../1 A300B4\n", r"val.txt, line 3: the path '../1.jpg' leads out of"),
        (
            "images_variant_val.txt",
            "\n9 A300B4\n",
            r"names 1 image, of which 1 is missing, the first: .*/images/9.jpg",
        ),
        ("images_variant_test.txt", "", "images_variant_test.txt is empty"),
        ("images_variant_test.txt", None, "images_variant_test.txt does not exist"),
        ("variants.txt", None, "variants.txt does not exist"),
    ],
)
def test_wrong_lists_of_aircraft_are_named(build, file, text, message):
    root = build("FGVCAircraft").root
    (root / file).unlink()
    if text is not None:
        (root / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_data(root)


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("ImageNet", list(IMAGENET.items())[1:], "no line for the class folder n01440764"),
        ("ImageNetR", list(IMAGENET.items())[1:], "no line for the class folder n01440764"),
        (
            "ImageNetSketch",
            [("n01440764", "tench"), ("n02012849", "")],
            "line 2: 'n02012849' is not a folder and a name",
        ),
        ("ImageNetV2", list(IMAGENET.items())[1:], "a folder 0, 1, ... for each line of classnames.txt: see folder 4"),
        ("ImageNetV2", [*IMAGENET.items(), ("n1", "more")], "for each line of classnames.txt: see folder 5"),
    ],
)
def test_class_names_that_do_not_fit_the_folders_are_named(build, name, names, message):
    root = build(name).root
    (root / "classnames.txt").write_text("".join(f"{folder} {words}\n" for folder, words in names))
    with pytest.raises(UsageError, match=message):
        read_data(root)


def test_both_parts_of_imagenet_have_the_same_classes(build):
    root = build("ImageNet").root
    (root / "images" / "val" / "n01440764").rename(root / "images" / "val" / "n00000000")
    with pytest.raises(UsageError, match="same class folders: n00000000 is in one only"):
        read_data(root)
    (root / "images" / "val").rename(root / "images" / "lost")
    with pytest.raises(UsageError, match="images/val cannot be read: No such file"):
        read_data(root)


def test_the_templates_can_be_used():
    assert DEFAULT == TEMPLATE
    assert TrainConfig(frozen_templates=ENSEMBLE).frozen_templates == ENSEMBLE
    assert len(set(ENSEMBLE)) == 7
