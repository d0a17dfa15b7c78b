"""Images of a run: they show what is there, at any number of classes, and the clusters drawn are the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.literal import literal_clusters, literal_image, literal_retrieve, normal, source_block
from support.models import small_backbone

from attri.runtime.errors import FailedError
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.report.cluster_sheet import SIDE, cluster_blocks, draw_clusters, usage_by_class
from attri.train.report.plots import COLOURS, DEAD, draw_confusion, draw_curves, draw_usage, largest, short

INCH = 150  # pixels
HOSTILE = ["$\\frac{$", "\udce9 latin", "🍎 apple", "תפוח אדום", "苹果", "n" * 300, "<b>", "a_b^c"]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(path, colour, where=np.s_[:]):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels(path)[where] == rgb).all(-1).sum())


def confusion(classes, images=5):
    generator = np.random.default_rng(0)
    return np.diag(generator.integers(1, images, classes))


@pytest.mark.parametrize("classes", [2, 60, 61, 1000])
def test_a_confusion_matrix_keeps_a_sensible_size_and_shows_a_single_confusion(tmp_path, classes):
    right = confusion(classes)
    names = [f"a rather long name of class number {n}" for n in range(classes)]
    draw_confusion(right, names, tmp_path / "right.png")
    wrong = right.copy()
    wrong[classes - 1, 0] += 1
    draw_confusion(wrong, names, tmp_path / "wrong.png")
    before, after = pixels(tmp_path / "right.png"), pixels(tmp_path / "wrong.png")
    assert before.shape == after.shape
    assert min(before.shape[:2]) > 380
    assert max(before.shape[:2]) < 2200
    height, width, _ = before.shape
    lower_left = np.s_[height // 2 :, : width // 2]
    assert (np.abs(before - after)[lower_left].max(-1) > 15).sum() >= 4


def test_classes_without_images_are_gray_not_a_division_by_zero(tmp_path):
    matrix = confusion(4)
    draw_confusion(matrix, ["a", "b", "c", "d"], tmp_path / "full.png")
    matrix[2] = 0
    draw_confusion(matrix, ["a", "b", "c", "d"], tmp_path / "gap.png")
    assert count(tmp_path / "full.png", "#D9D9D9") < 100  # edges of letters
    assert count(tmp_path / "gap.png", "#D9D9D9") > 1000
    draw_confusion(np.zeros((4, 4), int), ["a", "b", "c", "d"], tmp_path / "none.png")


def test_names_that_no_font_or_formula_can_take_are_drawn_as_they_are(tmp_path):
    draw_confusion(confusion(len(HOSTILE)), HOSTILE, tmp_path / "hostile.png")
    assert max(pixels(tmp_path / "hostile.png").shape) < 1000


@pytest.mark.parametrize(("size", "part"), [(8, 1), (8, 4), (10, 4)])
def test_a_square_shows_the_largest_share_of_its_classes(size, part):
    shares = np.random.default_rng(0).random((size, size))
    shares[:part] = np.nan
    blocks = range(0, size, part)
    slow = [[max(shares[r : r + part, c : c + part].flatten(), default=0) for c in blocks] for r in blocks]
    assert np.isnan(largest(shares, part)[0]).all()
    assert largest(shares, part)[1:].tolist() == slow[1:]


@pytest.mark.parametrize("size", [1, 16, 256])
def test_a_dead_entry_is_seen(tmp_path, size):
    usage = np.full((6, size), 1 / size)
    draw_usage(usage, tmp_path / "alive.png")
    usage[3, size // 2] = 0
    draw_usage(usage, tmp_path / "dead.png")
    assert count(tmp_path / "alive.png", DEAD) == 0
    assert count(tmp_path / "dead.png", DEAD) > 50
    assert pixels(tmp_path / "dead.png").shape[1] == 9 * INCH


@pytest.mark.parametrize("epochs", [1, 40])
def test_curves_show_every_term_that_a_record_has(tmp_path, epochs):
    history = [{"epoch": n, "loss": 3.0, "accuracy": 0.5, "lr": 0.1, "class": 2.0} for n in range(1, epochs + 1)]
    draw_curves(history, tmp_path / "one.png")
    history[-1]["instance"] = 1.0  # a term that only comes at the end, as in a run that went on with another version
    draw_curves(history, tmp_path / "two.png")
    inside = np.s_[:, : 4 * INCH]  # the curves without their legend
    assert count(tmp_path / "one.png", COLOURS[0], inside) > 10
    assert count(tmp_path / "one.png", COLOURS[1]) == 0
    assert count(tmp_path / "two.png", COLOURS[1]) > 10


def test_an_image_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(FailedError, match=r"cannot write .*usage\.png: No such file"):
        draw_usage(np.ones((1, 1)), tmp_path / "missing" / "usage.png")


def test_long_names_keep_both_ends():
    assert short("golden retriever") == "golden retriever"
    cut = short("common name of a very large family, number 12")
    assert cut == "common name o…y, number 12"
    assert len(cut) == 26


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pocket", {}),
        ("pocket", {"clusters": 4, "lloyd_steps": 3, "kmeans_init": "farthest", "topk": 2}),
        ("pocket", {"clusters": 4, "lloyd_steps": 0, "shared": True}),
        ("ViT-B-16", {"clusters": 3, "depth": 1, "topk": 3}),
    ],
)
def test_what_is_drawn_is_what_the_literal_method_clusters_and_retrieves(image_files, name, options):
    torch.manual_seed(0)
    backbone = load_backbone() if name == "pocket" else small_backbone(name, double=True)
    backbone.clip.double()  # so that a tie is a tie, and no rounding decides
    model = AttriPrompt(backbone, PromptConfig(pool_size=8, **options))
    config, keys = model.config, model.pool.keys_of_blocks().detach().double()
    for path in image_files[:3]:
        views = cluster_blocks(model, Image.open(path))
        image = torch.from_numpy(backbone.preprocess()(path)[None]).double()
        _, states = literal_image(backbone.clip, image)
        assert len(views) == model.depth
        for block, view in enumerate(views):
            assert view.source == source_block(block + 1, len(states), len(model.text.blocks))
            tokens = states[view.source - 1]
            centres, labels = literal_clusters(
                backbone.clip, tokens, config.clusters, config.lloyd_steps, config.kmeans_init
            )
            assert view.clusters.shape == backbone.tower.grid
            assert view.clusters.flatten().tolist() == labels
            for k, centre in enumerate(centres):
                joint = normal(centre @ backbone.clip.visual.proj)
                assert sorted(view.entries[k].tolist()) == literal_retrieve(joint[None], keys[block], config.topk)
                cosines = [float(joint @ keys[block, entry]) for entry in view.entries[k]]
                assert cosines == sorted(cosines, reverse=True)
                assert view.cosines[k].tolist() == pytest.approx(cosines, abs=1e-6)  # keys are float32
        with torch.no_grad():
            whole = model.pool.retrieve(model.encode_image(image)[1])[0]  # [L, M]
        assert [sorted(view.entries.flatten().tolist()) for view in views] == whole.tolist()


def test_usage_by_class_counts_each_class_on_its_own():
    generator = torch.Generator().manual_seed(0)
    retrieved = torch.randint(5, (40, 3, 2), generator=generator)
    targets = torch.randint(4, (40,), generator=generator) + 1  # class 0 has no image
    usage = usage_by_class(retrieved, targets, 6, 7)
    assert usage.shape == (6, 3, 7)
    for c in range(6):
        for block in range(3):
            mine = [e for i in range(40) if targets[i] == c for e in retrieved[i, block].tolist()]
            shares = [mine.count(entry) / max(1, len(mine)) for entry in range(7)]
            assert usage[c, block].tolist() == pytest.approx(shares)
    assert usage[0].sum() == 0
    assert usage[1:5].sum(-1).allclose(torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("clusters", [1, 2, 8])
def test_the_sheet_colours_the_patches_of_the_image(tmp_path, pocket_model, image_files, clusters):
    model = AttriPrompt(pocket_model.backbone, PromptConfig(clusters=clusters, kmeans_init="farthest"))
    usage = torch.zeros(len(HOSTILE), 6, 16)
    usage[:, :, ::2] = 1 / 8
    image = Image.open(image_files[3])
    draw_clusters(model, image, HOSTILE, usage, tmp_path / "sheet.png", caption=HOSTILE[0])
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape[1] == 9.8 * INCH
    assert 4 * INCH < sheet.shape[0] < 15 * INCH
    # Gray has as much red as blue, so what the overlay adds to their difference is half the colour's own.
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 5)] for c in COLOURS])
    want = (palette[:, 0] - palette[:, 1]) / 2
    view = cluster_blocks(model, image)[0]
    seen = 0
    for row, column in np.ndindex(*model.backbone.tower.grid):
        x = round((0.15 + (column + 0.2) * SIDE / 8) * INCH)  # in a corner of the patch, off borders and most numbers
        y = round((SIDE + 0.72 + (row + 0.2) * SIDE / 8) * INCH)
        red, _, blue = sheet[y, x]
        seen += abs(red - blue - want[int(view.clusters[row, column]) % len(COLOURS)]) < 3
    assert seen >= 64 - 2 * clusters
