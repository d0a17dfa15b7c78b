"""Folders as people have them, and the cached features of what is in them."""

from __future__ import annotations

import logging
import random
import shutil

import pytest
import torch

from attri.runtime.errors import UsageError
from attri.train.data import LabelledImage, read_data, read_target
from attri.train.training.features import augment, compute, require_classes


@pytest.fixture
def tree(tmp_path, image_files):
    """tree(layout): real images copied to {"folder/class": count}"""

    def make(layout):
        files = iter(image_files)
        for name, count in layout.items():
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True)
            for number in range(count):
                shutil.copy(next(files), folder / f"{number}.png")
        return tmp_path / "data"

    return make


def test_a_folder_per_class_holds_a_share_out(tree):
    data = read_data(tree({"red_apple": 8, "bird": 4, ".hidden": 2}))
    assert data.classes == ["bird", "red apple"]
    assert [sum(p.target == c for p in data.train) for c in (0, 1)] == [3, 6]
    assert [sum(p.target == c for p in data.test) for c in (0, 1)] == [1, 2]
    assert not {p.path for p in data.train} & {p.path for p in data.test}
    assert data == read_data(data.root)
    assert data.test != read_data(data.root, seed=2).test


def test_a_held_out_share_is_drawn_class_by_class(tree):
    data = read_data(tree({"a": 7, "b": 5}), holdout=0.4, seed=3)
    for number, name, count in ((0, "a", 3), (1, "b", 2)):
        files = sorted((data.root / name).iterdir())
        held = random.Random(3).sample(files, len(files))[:count]
        assert [p.path for p in data.test if p.target == number] == sorted(held)
        assert [p.path for p in data.train if p.target == number] == sorted(set(files) - set(held))


def test_split_folders_are_taken_as_they_are(tree):
    root = tree({"train/a": 2, "train/b": 3, "val/a": 1, "val/b": 1, "test/a": 2, "test/b": 1})
    data = read_data(root)
    assert (len(data.train), len(data.val), len(data.test)) == (5, 2, 3)


def test_shots_are_drawn_as_coop_draws_them(tree):
    data = read_data(tree({"train/a": 6, "train/b": 6, "test/a": 1, "test/b": 1}), shots=2, seed=7)
    every = read_data(data.root).train
    random.seed(7)
    expected = [p for c in (0, 1) for p in random.sample([p for p in every if p.target == c], 2)]
    assert data.train == expected


def test_validation_is_drawn_after_training_and_four_at_most(tree):
    root = tree({"train/a": 6, "train/b": 6, "val/a": 6, "val/b": 3, "test/a": 1, "test/b": 1})
    data, every = read_data(root, shots=5, seed=7), read_data(root)
    random.seed(7)
    for part, count in (("train", 5), ("val", 4)):
        drawn = []
        for c in (0, 1):
            own = [p for p in getattr(every, part) if p.target == c]
            drawn += random.sample(own, count) if len(own) >= count else own
        assert getattr(data, part) == drawn
    assert data.test == every.test


def test_a_target_without_test_images_is_scored_on_all_others(tree):
    target = read_target(tree({"train/a": 2, "train/b": 3, "val/a": 1, "val/b": 1}))
    assert (len(target.train), len(target.val), len(target.test)) == (0, 0, 7)


def test_folders_without_training_images_are_for_testing(tree):
    data = read_data(tree({"test/red_apple": 2, "test/bird": 1}), shots=1)
    assert (data.classes, data.train, data.val) == (["bird", "red apple"], [], [])
    assert [p.target for p in data.test] == [0, 1, 1]


def test_other_folders_beside_the_splits_are_left_aside(tree):
    data = read_data(tree({"train/a": 2, "train/b": 2, "test/a": 1, "images": 3, "imagenet-a": 1}))
    assert (data.classes, len(data.train), len(data.test)) == (["a", "b"], 4, 1)


def test_a_class_may_be_called_like_the_image_folder_of_eurosat(tree):
    assert read_data(tree({"2750": 2, "2751": 2})).classes == ["2750", "2751"]


def test_name_and_template(tree):
    data = read_data(tree({"a": 2, "b": 2}))
    assert (data.name, data.template) == ("data", "a photo of a {}.")


def test_a_name_like_that_of_a_known_dataset_means_nothing(tree):
    root = tree({"a": 2, "b": 2})
    assert read_data(root.rename(root.with_name("EuroSAT"))).template == "a photo of a {}."


STRAYS = ["__MACOSX", "@eaDir", ".ipynb_checkpoints", ".thumbnails", "$RECYCLE.BIN"]


@pytest.mark.parametrize("part", ["", "train/"])
def test_what_systems_leave_among_images_is_left_out_and_said_once(tree, caplog, part):
    root = tree({f"{part}{name}": 2 for name in ("bird", "red_apple", *STRAYS)} | {f"{part}bird/@eaDir/1.png": 1})
    for name in ("._0.png", "Thumbs.db", ".DS_Store"):
        (root / part / "bird" / name).write_bytes(b"no image")
        (root / part / name).write_bytes(b"no image")
    for _ in range(2):
        data = read_data(root)
        assert data.classes == ["bird", "red apple"]
        assert len(data.train) + len(data.test) == 4
    assert caplog.messages == [f"{root / part}: not classes, left out: {', '.join(sorted(STRAYS))}"]


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (
            {"a": 1, "b": 1},
            "a single image of every class, which trains: there is no test part, and no accuracy",
        ),
        ({"a": 1, "b": 2}, "a single image of a, which trains: none is left for the test part"),
    ],
)
def test_classes_that_nothing_tests_are_said_once(tree, caplog, layout, said):
    root = tree(layout)
    table = root.with_name("table.csv")
    rows = [f"data/{path.relative_to(root)},{path.parent.name}\n" for path in sorted(root.rglob("*.png"))]
    table.write_text("path,label\n" + "".join(rows))
    for source in (root, table):
        caplog.clear()
        read_data(source)
        read_data(source)
        assert caplog.messages == [f"{source}: {said}"]


def test_a_single_image_trains(tree):
    data = read_data(tree({"a": 1, "b": 2}))
    assert (len(data.train), len(data.test)) == (2, 1)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"a": 2, "b": 0}, r"data/b has no images"),
        ({"a": 2}, r"holds 1 class folder:"),
        ({"train/a": 2, "train/b": 0}, r"train/b has no images"),
        ({"train/a": 2, "train/b": 1, "test/a": 1, "test/b": 0}, r"test/b has no images"),
        ({"train/a": 2, "train/b": 1, "val/c": 1}, r"val/c is no class of .*/train: add it there or remove"),
        ({"train": 2, "test": 2}, r"train holds 0 class folders"),
        ({"val/a": 2, "val/b": 2}, r"the class 'a' has no test images"),
        ({"a_b": 2, "a b": 2, "c": 1}, r"two folders for the class 'a b': make them one"),
        ({"_": 2, "c": 1}, r"the class number 0 has a name without words"),
        ({"images": 2, "masks": 2}, r"has images in images/, but none of the lists that go with it"),
    ],
)
def test_wrong_folders_are_named(tree, layout, message):
    with pytest.raises(UsageError, match=message):
        read_data(tree(layout))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        read_data(tmp_path / "nowhere")


@pytest.mark.parametrize("wrong", [{"shots": 0}, {"shots": -1}, {"holdout": 0.0}, {"holdout": 1.0}])
def test_shares_and_shots_out_of_range_are_refused(tree, wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is "):
        read_data(tree({"a": 2, "b": 2}), **wrong)


def test_classes_can_be_chosen_and_renumbered(tree):
    data = read_data(tree({"a": 4, "b": 4, "c": 4})).only([2, 0])
    assert data.classes == ["c", "a"]
    assert {(p.path.parent.name, p.target) for p in data.train} == {("c", 0), ("a", 1)}


def test_the_fingerprint_is_of_names_below_the_root_and_their_targets(tree):
    data = read_data(tree({"a": 4, "b": 4}))
    assert data.fingerprint() == read_data(data.root).fingerprint() != read_data(data.root, seed=2).fingerprint()
    moved = read_data(data.root.rename(data.root.with_name("elsewhere")))
    assert moved.fingerprint() == data.fingerprint()
    (moved.root / "a" / "0.png").rename(moved.root / "a" / "00.png")
    assert read_data(moved.root).fingerprint() != data.fingerprint()


CLASSES = ["red apple", "bird"]


def test_features_of_a_batch_remainder_and_views(pocket_model, image_files):
    images = [
        LabelledImage(path, i % 2) for i, path in enumerate(image_files[:67])
    ]  # one more than a batch of 64, and two
    data = compute(pocket_model, images, views=1, seed=1)
    assert data.features.shape == (67, 1, 192)
    assert data.centres.shape == (67, 1, 6, 2, 192)
    assert data.targets.tolist() == [p.target for p in images]
    alone = compute(pocket_model, images[66:], views=1, seed=1)
    assert torch.allclose(alone.features[0], data.features[66], atol=1e-6)  # float32, another batch size
    views = compute(pocket_model, images[:3], views=4, seed=1)
    assert torch.equal(views.features, compute(pocket_model, images[:3], views=4, seed=1).features)
    assert not torch.allclose(views.features[:, 0], views.features[:, 1])


def test_unreadable_images_are_listed_and_skipped(pocket_model, image_files, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(image_files[0].read_bytes()[:200])
    images = [LabelledImage(image_files[0], 0), LabelledImage(broken, 0), LabelledImage(image_files[1], 1)]
    with caplog.at_level(logging.WARNING, "attri"):
        data = compute(pocket_model, images, views=1, seed=1)
    assert data.targets.tolist() == [0, 1]
    assert len(data.skipped) == 1
    assert str(broken) in data.skipped[0]
    assert str(broken) in caplog.text
    require_classes(data, CLASSES)
    rest = compute(pocket_model, images[1:], views=1, seed=1)  # of which the first class has none
    assert rest.targets.tolist() == [1]
    with pytest.raises(UsageError, match="no training image of red apple can be read"):
        require_classes(rest, CLASSES)
    assert len(compute(pocket_model, [LabelledImage(broken, 0)])) == 0


def test_augmented_views_stay_inside_and_repeat(image_files):
    from attri.runtime.images import load_image

    image = load_image(image_files[0])
    views = [augment(image, f"seed {i}") for i in range(50)]
    for view in views:
        assert 0.35 < view.width * view.height / (image.width * image.height) <= 1.0  # 50% less what the sides clip
    assert augment(image, "x").tobytes() == augment(image, "x").tobytes()
    assert augment(image.crop((0, 0, 1, 1)), "x").size == (1, 1)
