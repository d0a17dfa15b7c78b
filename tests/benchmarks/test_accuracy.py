"""The harness of benchmarks/accuracy: splits, features on disk, statistics, tables."""

from __future__ import annotations

import importlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from attri.train.config import PromptConfig
from attri.train.data.dataset import Dataset, LabelledImage
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES
from attri.train.training.features import compute


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def module(name):
    return importlib.import_module(f"benchmarks.accuracy.{name}")


def pieces(correct, generator, samples=4000):
    """Bootstrap in words: pick seeds, pick images, average."""
    seed_count, image_count = correct.shape
    found = []
    for _ in range(samples):
        seeds = generator.choices(range(seed_count), k=seed_count)
        images = generator.choices(range(image_count), k=image_count)
        found.append(100 * correct[np.ix_(seeds, images)].mean())
    return found


def test_the_interval_of_a_difference_is_what_resampling_by_hand_gives():
    numbers = np.random.default_rng(1)
    theirs = numbers.random((3, 120)) < 0.5
    ours = theirs ^ (numbers.random((3, 120)) < 0.15)  # paired: they differ on few images
    interval = module("statistics").paired([ours], [theirs])
    by_hand = pieces(ours.astype(float) - theirs, random.Random(0))
    assert interval.value == pytest.approx(100 * (ours.mean() - theirs.mean()))
    low, high = np.percentile(by_hand, [2.5, 97.5])
    # A percentile of 4,000 resamples of standard deviation 3 has a standard error of 0.13; of two, 4 of them.
    assert interval.low == pytest.approx(low, abs=0.75)
    assert interval.high == pytest.approx(high, abs=0.75)
    assert interval.high - interval.low < 14  # unpaired it would be 20 and more


def test_equal_methods_differ_by_nothing_and_a_single_row_stands_for_all_seeds():
    statistics = module("statistics")
    parts = [np.random.default_rng(0).random((1, 50)) < 0.4, np.random.default_rng(1).random((1, 30)) < 0.6]
    five = [np.repeat(part, 5, 0) for part in parts]
    interval = statistics.paired(five, parts, statistics.harmonic_mean)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert not interval.excludes_zero


def test_harmonic_and_class_means():
    statistics = module("statistics")
    assert statistics.harmonic_mean(np.array([50.0, 0.0]), np.array([25.0, 0.0])).tolist() == [
        pytest.approx(100 / 3),
        0,
    ]
    correct = np.array([[True, True, True, False], [True, True, False, False]])
    targets = np.array([0, 0, 0, 1])
    assert statistics.class_mean(correct, targets) == pytest.approx(100 * (5 / 6 + 0) / 2)


def write_rows(file, header, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def test_caltech_s_base_classes_are_coop_s_although_classes_are_missing(tmp_path):
    classes = [("zebra", "base"), ("ant", "base"), ("bat", "base"), ("cat", "novel"), ("dog", "novel")]
    rows = [
        (f"{name}/{n}.jpg", split, label, name, half, "rest" if name == "bat" else "here")
        for label, (name, half) in enumerate(classes)
        for n, split in enumerate(["train", "val", "test"])
    ]
    write_rows(tmp_path / "split.csv", "file,split,label,class,half,where", rows)
    source = module("datasets").caltech(tmp_path)
    base, novel = source.halves()
    assert (base.classes, novel.classes) == (["zebra", "ant"], ["cat", "dog"])  # by label, not by name
    assert [image.path.name for image in base.test] == ["2.jpg", "2.jpg"]


def test_grocery_s_levels(tmp_path):
    kinds = [("royal gala", "apple"), ("arla milk", "milk"), ("granny smith", "apple"), ("zucchini", "zucchini")]
    rows = [(f"test/{fine}.jpg", "test", fine, coarse) for fine, coarse in kinds]
    write_rows(tmp_path / "labels.csv", "file,split,class,coarse_class", rows)
    grocery = module("datasets").grocery
    assert grocery(tmp_path, "fine").dataset.classes == ["arla milk", "granny smith", "royal gala", "zucchini"]
    assert grocery(tmp_path, "produce").dataset.classes == ["granny smith", "royal gala", "zucchini"]
    coarse = grocery(tmp_path, "coarse").dataset
    assert coarse.classes == ["apple", "milk", "zucchini"]
    assert sorted(image.target for image in coarse.test) == [0, 0, 1, 2]


def many(classes=9, each=40):
    def images(part, count):
        return [LabelledImage(Path(f"{part}/{c}/{n}.png"), c) for c in range(classes) for n in range(count)]

    names = [f"thing {c}" for c in range(classes)]
    return module("datasets").Source.of(
        Dataset(Path(), "many", names, images("train", each), images("val", 2), images("test", 5))
    )


def test_pseudo_novel_sees_no_test_image_and_no_novel_class_and_scores_nothing_that_it_trained_on():
    train, parts = module("protocols").split("pseudo-novel", many(), 16, 1, {})
    assert set(train.classes) == {"thing 0", "thing 1", "thing 3", "thing 4"}
    assert parts["seen"].classes == train.classes
    assert parts["pseudo"].classes == ["thing 2"]
    trained = {image.path for image in train.train}
    assert len(trained) == 4 * 16
    for part in parts.values():
        assert part.test
        assert all(image.path.parts[0] != "test" and image.path not in trained for image in part.test)


def test_base_classes_have_the_same_training_images_in_every_protocol():
    split = module("protocols").split
    base, parts = split("base-to-novel", many(), 4, 7, {})
    whole, _ = split("few-shot", many(), 4, 7, {})
    assert {i.path for i in base.train} == {i.path for i in whole.train if i.target < 5}
    assert [len(part.test) for part in parts.values()] == [25, 20, 20]


def test_unknown_images_are_the_novel_ones_among_the_base_classes():
    base, parts = module("protocols").split("base-to-novel", many(), 4, 7, {})
    assert parts["unknown"].classes == base.classes
    assert [image.path for image in parts["unknown"].test] == [image.path for image in parts["novel"].test]
    assert {image.target for image in parts["unknown"].test} == {-1}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AttriPrompt(load_backbone(), PromptConfig(pool_size=4))


def test_features_are_computed_once_and_come_back_the_same(model, tmp_path, monkeypatch):
    features = module("features")
    images = [LabelledImage(path, n) for n, path in enumerate(sorted((IMAGES / "test").rglob("*.png"))[:5])]
    expected = compute(model, images, 2)
    store = features.FeatureStore(tmp_path, model)
    store.get(images[:3], 2)
    store.get(images[1:], 2)
    monkeypatch.setattr(features, "compute", lambda *args: pytest.fail("encoded again"))
    for again in (store, features.FeatureStore(tmp_path, model)):
        found = again.get(images[::-1], 2)
        # Batches of other sizes add up in another order.
        assert (found.features.flip(0) - expected.features).abs().max() < 1e-5
        assert (found.centres.flip(0) - expected.centres).abs().max() < 1e-4
        assert found.targets.tolist() == [4, 3, 2, 1, 0]


def test_a_little_of_it_from_images_to_the_page(tmp_path):
    photos = tmp_path / "photos"
    for part, count in (("train", 3), ("test", 2)):
        for folder in sorted((IMAGES / part).iterdir())[:4]:
            target = photos / part / folder.name
            target.mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, target)
    datasets, run, tables = module("datasets"), module("run"), module("tables")
    sources = {"photos": lambda: datasets.Source.of(datasets.read_data(photos))}
    lines = []

    def fill():
        bench = run.Bench(tmp_path / "out", load_backbone(), sources, 1, 1, "fp32", lines.append)
        plans = list(run.plans(("base-to-novel",), ["photos"], ("zero-shot", "linear-probe", "static"), (1, 2)))
        for plan in plans:
            bench.fill(plan)
        return bench, plans

    bench, plans = fill()
    assert [(plan.method, plan.seed) for plan in plans] == [
        ("zero-shot", 1),
        ("linear-probe", 1),
        ("static", 1),
        ("linear-probe", 2),
        ("static", 2),
    ]
    said = len(lines)
    fill()
    assert len(lines) == said, "what is there is not done again"
    page = tables.page(tables.Results(bench.folder, (1, 2)), ["photos"]).partition("## Cost")[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "### photos: 4 base and 4 novel test images" in page
    zero_shot = run.cells.load(plans[0].file(bench.folder))
    share = 100 * zero_shot.parts["novel"].correct.mean()
    assert f" {share:.1f} (" in rows["zero-shot"]
    assert rows["linear-probe"].count("–") == 2  # no novel classes, no HM
    assert "[" in rows["static"]
