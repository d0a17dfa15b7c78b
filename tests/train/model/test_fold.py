"""The folded encoder equals the literal one: features and gradients, whatever the model, pool and labels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from support.literal import literal_centres, literal_image, literal_retrieve, literal_text, source_block
from support.models import SMALL, small_backbone
from torch.utils.flop_counter import FlopCounterMode

from attri.runtime.text.label_tokens import EOT, SOS, encode_labels
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

WORDS = ["red", "green", "apple", "zebra", "café", "grüne", "草", "quixotic", "42", "&", "don't"]


REFERENCE = SimpleTokenizer()  # open_clip's own


def build(name, config, double, seed=0):
    backbone = small_backbone(name, double)
    torch.manual_seed(seed)
    model = AttriPrompt(backbone, config)
    with torch.no_grad():
        model.pool.tokens.normal_()  # far from the small start, so that prompts matter
        model.pool.static.normal_()
    return model.double() if double else model


def literal_ids(labels, template):
    rows = torch.zeros(len(labels), 77, dtype=torch.long)
    for row, label in zip(rows, labels, strict=True):
        ids = [SOS, *REFERENCE.encode(template.format(label))[:75], EOT]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def both(model, labels, template, retrieved):
    words = encode_labels(REFERENCE, labels, template)
    folded = model.encode_text(words, retrieved)
    ids = literal_ids(labels, template)
    pool = model.pool
    literal = [
        literal_text(model.backbone.clip, pool.tokens_of_blocks(), pool.static, image, ids) for image in retrieved
    ]
    return folded, torch.stack(literal)


# 1e-10 in float64 leaves only the order of summation; 1e-5 in float32 is its rounding over a few blocks.
PRECISIONS = [pytest.param(True, 1e-10, id="float64"), pytest.param(False, 1e-5, id="float32")]


@pytest.mark.parametrize(("double", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", SMALL)
def test_equals_literal(name, double, tolerance):
    config = PromptConfig(pool_size=5, clusters=2, topk=2, prompt_length=3, static_tokens=1)
    model = build(name, config, double)
    labels = ["cat", " ".join(["zebra"] * 68), "a very small red apple"]
    retrieved = model.pool.retrieve(torch.randn(2, 2, 2, model.pool.keys.shape[-1], dtype=model.pool.keys.dtype))
    folded, literal = both(model, labels, "a photo of a {}.", retrieved)
    assert folded.shape == literal.shape
    assert (folded - literal).abs().max() < tolerance


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_equals_literal_for_any_shape(data):
    draw = data.draw
    pool_size = draw(st.sampled_from([0, 1, 2, 7]))
    config = PromptConfig(
        pool_size=pool_size,
        clusters=draw(st.integers(1, 4)),
        topk=draw(st.integers(1, max(1, min(3, pool_size)))),
        prompt_length=draw(st.integers(1, 4)),
        static_tokens=draw(st.integers(0 if pool_size else 1, 3)),
        depth=draw(st.sampled_from([None, 1, 2])),
        shared=draw(st.booleans()),
    )
    model = build(
        draw(st.sampled_from(["ViT-B-32", "CustomTextCLIP"])), config, double=True, seed=draw(st.integers(0, 99))
    )
    lengths = draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    labels = [" ".join(draw(st.sampled_from(WORDS)) for _ in range(length)) for length in lengths]
    template = draw(st.sampled_from(["{}", "a photo of a {}.", "{} seen from afar"]))
    images = draw(st.integers(1, 2))
    retrieved = torch.randint(max(pool_size, 1), (images, model.depth, config.retrieved)).sort(-1).values
    folded, literal = both(model, labels, template, retrieved)
    assert (folded - literal).abs().max() < 1e-10


def test_order_inside_a_block_does_not_matter():
    model = build("ViT-B-32", PromptConfig(pool_size=6, clusters=4), double=True)
    words = encode_labels(REFERENCE, ["cat", "two dogs"])
    retrieved = torch.tensor([[[0, 2, 2, 5], [1, 3, 4, 5]]])
    assert torch.allclose(model.encode_text(words, retrieved), model.encode_text(words, retrieved.flip(-1)), atol=1e-12)


def test_batch_equals_single():
    model = build("ViT-B-32", PromptConfig(pool_size=6), double=True)
    words = encode_labels(REFERENCE, ["cat", "two dogs", "zebra crossing"], "a photo of a {}.")
    retrieved = torch.randint(6, (3, model.depth, 2))
    singles = torch.cat([model.encode_text(words, one[None]) for one in retrieved])
    assert torch.allclose(model.encode_text(words, retrieved), singles, atol=1e-12)


def test_the_entry_past_the_last_prompts_nothing():
    model = build("ViT-B-32", PromptConfig(pool_size=6, static_tokens=1), double=True)
    words = encode_labels(REFERENCE, ["cat", "two dogs"], "a photo of a {}.")
    some = torch.tensor([[[0, 2], [1, 3]]])
    mixed = torch.cat([some, torch.full_like(some, 6), some[:, :1].expand(-1, 2, -1)])
    mixed[2, 1, 1] = 6
    features = model.encode_text(words, mixed)
    assert torch.allclose(features[:1], model.encode_text(words, some), atol=1e-12)
    pool = model.pool
    nothing = literal_text(
        model.backbone.clip,
        pool.tokens_of_blocks()[:, :, :0],
        pool.static,
        some[0],
        literal_ids(["cat", "two dogs"], "a photo of a {}."),
    )
    assert (features[1] - nothing).abs().max() < 1e-10


def test_only_distinct_real_tokens_are_computed():
    """Counted, not timed: products of the text encoder over rows, and nothing else that grows with labels."""
    model = build("ViT-B-32", PromptConfig(pool_size=6), double=False)
    width = 512

    def flops(labels, images=1):
        words = encode_labels(REFERENCE, labels, "a photo of a {}.")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.encode_text(words, torch.zeros(images, 2, 2, dtype=torch.long))
        rows, labels = len(words.prefix) + len(words.suffix_tokens), len(words)
        # Block 1, of which queries, keys and values are the same for all images; block 2, of which only EOT asks.
        linear = 2 * width**2 * (rows * 3 + images * rows * 9 + images * (rows * 2 + labels * 10))
        return counter.get_total_flops(), linear

    for labels, images in ((["cat"], 1), (["cat", "two dogs", "two red dogs"], 1), (["cat", "two dogs"], 3)):
        counted, linear = flops(labels, images)
        tables = 2 * width**2 * 2 * 2 * 6 * 2  # keys and values of 2 blocks' 6 entries of 2 tokens
        projection = 2 * width * width * len(labels) * images
        attention = counted - linear - tables - projection
        assert 0 < attention < 0.02 * counted
    alike, apart = (
        flops(["great white shark", "great white heron"])[0],
        flops(["great white shark", "small red heron"])[0],
    )
    assert alike < apart


def test_plain_text_is_open_clip_s_own():
    model = build("ViT-L-14", PromptConfig(), double=True)
    labels = ["cat", "a small zebra"]
    plain = model.plain_text(encode_labels(REFERENCE, labels, "a photo of a {}."))
    expected = model.backbone.clip.encode_text(literal_ids(labels, "a photo of a {}."), normalize=True)
    assert (plain - expected).abs().max() < 1e-10


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_equal_literal(shared):
    config = PromptConfig(pool_size=4, clusters=3, prompt_length=2, static_tokens=2, shared=shared)
    model = build("CustomTextCLIP", config, double=True)
    labels = ["cat", "two red dogs"]
    retrieved = torch.tensor([[[0, 1, 1], [2, 2, 3]], [[0, 0, 0], [1, 2, 3]]])
    folded, literal = both(model, labels, "a photo of a {}.", retrieved)
    target = torch.randn_like(folded)
    learned = [model.pool.tokens, model.pool.static]
    ours = torch.autograd.grad((folded * target).sum(), learned)
    theirs = torch.autograd.grad((literal * target).sum(), learned)
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        assert (mine - other).abs().max() < 1e-10 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize(
    ("clusters", "steps", "start"), [(1, 0, "grid"), (2, 1, "grid"), (4, 3, "grid"), (3, 5, "farthest")]
)
def test_images_equal_literal(name, clusters, steps, start, make_pixels):
    config = PromptConfig(pool_size=8, clusters=clusters, lloyd_steps=steps, kmeans_init=start, topk=2, shared=False)
    model = build(name, config, double=True)
    clip = model.backbone.clip
    pixels = torch.from_numpy(make_pixels(model.backbone.preprocess(), 3)).double()
    features, centres = model.encode_image(pixels)
    retrieved = model.pool.retrieve(centres)
    layers = len(clip.visual.transformer.resblocks)
    for image in range(len(pixels)):
        feature, tokens = literal_image(clip, pixels[image : image + 1])
        assert (features[image] - feature).abs().max() < 1e-10
        for block in range(model.depth):
            source = tokens[source_block(block + 1, layers, len(model.text.blocks)) - 1]
            expected = literal_centres(clip, source, clusters, steps, start)
            assert (centres[image, block] - expected).abs().max() < 1e-9  # 1e-10 and a sum over all tokens
            assert retrieved[image, block].tolist() == literal_retrieve(expected, model.pool.keys[block].detach(), 2)
