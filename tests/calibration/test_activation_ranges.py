"""Ranges against slow references on real activations, and what the calibration images may be."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from attri.calibration import activation_ranges as module
from attri.calibration import qdq
from attri.calibration.activation_ranges import Samples, collect_samples, measure_ranges
from attri.calibration.images import evenly, find_calibration_images
from attri.export.graph.trace import trace_vision
from attri.export.prompt import make_prompt
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.text.label_inputs import LabelInputs
from attri.runtime.text.label_tokens import LabelTokens

TOKENS, LENGTHS = np.arange(28, dtype=np.int32).reshape(7, 4), np.array([2, 1, 4, 2, 2, 4, 1], np.int32)
WORDS = LabelTokens.pack(np.zeros(3, np.int32), TOKENS, LENGTHS)
TABLE = np.arange(28, dtype=np.float32)[:, None]


class Seen:
    """A vision engine that remembers how many images came at once, and retrieves what their mean says."""

    description = "a test's"
    limits: Mapping[str, int] = {}

    def __init__(self):
        self.sizes = []

    def run(self, inputs):
        pixels = inputs["pixels"]
        self.sizes.append(len(pixels))
        return [pixels, (pixels.mean((1, 2, 3))[:, None, None] > 0).astype(np.int32), pixels]

    def close(self):
        pass


@pytest.fixture(scope="module")
def graph(pocket_model, traced, tmp_path_factory):
    proto = traced(trace_vision)(pocket_model, "fp32", 18)
    qdq.fold_weights(proto)
    path = tmp_path_factory.mktemp("graph") / "vision.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def samples(pocket_model, image_files):
    prompt = make_prompt(pocket_model, ["bird"], "a {}")
    preprocess = pocket_model.backbone.preprocess()
    return Samples(image_files[:12], preprocess, prompt, np.zeros((1, 6, 2), np.int32), WORDS, LabelInputs(TABLE))


@pytest.fixture(scope="module")
def tensors(graph):
    """Some tensors with shapes of their own: two norms, an attention's output, a GELU's output."""
    proto = onnx.load(graph)
    found = qdq.layers(proto.graph, "image_features")
    inputs = {node.name: node.input[0] for node in proto.graph.node}
    return [inputs[name] for name in found["block 2"]]


@pytest.fixture(scope="module")
def values(graph, samples, tensors):
    """All that these tensors hold over all images, at once."""
    proto = onnx.load(graph)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in tensors)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.concatenate([feed["pixels"] for feed in samples.vision()])
    return dict(zip(tensors, session.run(tensors, {"pixels": pixels, **samples.prompt.vision_inputs}), strict=True))


def measured(graph, samples, tensors, method, tmp_path):
    return measure_ranges(graph, set(tensors), samples.vision(), method, tmp_path)


def test_minmax_is_the_least_and_the_greatest(graph, samples, tensors, values, tmp_path, capsys):
    found = measured(graph, samples, tensors, "minmax", tmp_path)
    assert list(found) == sorted(tensors)
    for name, (low, high) in found.items():
        # Graph optimization, on here and off there, reorders float32 sums.
        np.testing.assert_allclose((low, high), (values[name].min(), values[name].max()), rtol=1e-4)
    assert capsys.readouterr().out == ""


def test_percentile_cuts_both_tails_alike(graph, samples, tensors, values, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "PERCENTILE", 99.0)
    found = measured(graph, samples, tensors, "percentile", tmp_path)
    for name, (low, high) in found.items():
        bin_width = 2 * np.abs(values[name]).max() / 2048 * 1.01
        expected = np.quantile(values[name], [0.005, 0.995])
        assert np.abs(np.array([low, high]) - expected).max() < 2 * bin_width
        assert high - low < 0.9 * np.ptp(values[name])
    assert capsys.readouterr().out == ""


def kl(histogram, half, levels):
    """Information lost by clipping to the middle 2 half + 1 bins and giving each of `levels` groups one height."""
    middle = len(histogram) // 2
    start, end = middle - half, min(middle + half + 1, len(histogram))
    reference = histogram[start:end].astype(float)
    clipped = reference.copy()
    clipped[0] += histogram[:start].sum()
    clipped[-1] += histogram[end:].sum()
    width = len(reference) // levels
    coarse = np.zeros_like(reference)
    for level in range(levels):
        part = slice(level * width, (level + 1) * width if level < levels - 1 else None)
        alive = clipped[part] > 0
        if alive.any():
            coarse[part][alive] = reference[part].sum() / alive.sum()
    p, q = clipped / clipped.sum(), coarse / coarse.sum()
    both = (p > 0) & (q > 0)
    return (p[both] * np.log(p[both] / q[both])).sum() if (q[p > 0] > 0).all() else np.inf


def test_entropy_loses_about_the_least_information(graph, samples, tensors, values, tmp_path, monkeypatch, capsys):
    bins, levels = 256, 64
    monkeypatch.setattr(module, "ENTROPY_BINS", bins)
    monkeypatch.setattr(module, "ENTROPY_LEVELS", levels)
    found = measured(graph, samples, tensors[:2], "entropy", tmp_path)
    for name, (low, high) in found.items():
        greatest = np.abs(values[name]).max()
        histogram, _ = np.histogram(values[name], bins, range=(-greatest, greatest))
        losses = {half: kl(histogram, half, levels) for half in range(levels // 2, bins // 2 + 1)}
        least = greatest * 2 * min(losses, key=losses.get) / bins
        # Its bins grow with what comes, and it smooths empty ones: near the least, not at it.
        assert 0.5 * least < max(-low, high) < 1.6 * least
        assert max(-low, high) <= greatest * 1.0001
    assert capsys.readouterr().out == ""


def test_a_tensor_that_is_not_finite_is_named(graph, samples, tensors, tmp_path):
    bad = [{"pixels": np.full((1, 3, 64, 64), np.inf, np.float32), **samples.prompt.vision_inputs}]
    with pytest.raises(FailedError, match="on the calibration images: int8 cannot hold it"):
        measure_ranges(graph, set(tensors[:1]), bad, "minmax", tmp_path)


def test_images_come_a_few_at_a_time(samples, image_files, tmp_path, caplog):
    for number, file in enumerate(image_files[:9]):
        shutil.copy(file, tmp_path / f"{number}.png")
    engine = Seen()
    found = collect_samples(tmp_path, engine, samples.preprocess, samples.prompt, WORDS, LabelInputs(TABLE))
    assert engine.sizes == [4, 4, 1]
    assert len(found.images) == 9
    assert len(found.retrieved) <= 2  # distinct sets only
    assert [len(feed["pixels"]) for feed in found.vision()] == [4, 4, 1]
    assert [len(feed["pixels"]) for feed in found.vision(5)] == [4, 1]
    assert "int8 is calibrated on 9 images, 100 are wanted: its ranges may clip" in caplog.text


def test_damaged_images_are_named_and_left_out(samples, image_files, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    shutil.copy(image_files[0], tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes(image_files[1].read_bytes()[:200])
    (tmp_path / "empty.jpg").touch()
    found = collect_samples(tmp_path, Seen(), samples.preprocess, samples.prompt, WORDS, LabelInputs(TABLE))
    assert found.images == [tmp_path / "good.png"]
    assert "left out of the calibration" in caplog.text
    assert "cut.png" in caplog.text
    assert "empty.jpg is empty" in caplog.text


def test_a_folder_without_a_usable_image_is_refused(samples, tmp_path):
    with pytest.raises(UsageError, match="nowhere: no such folder; `calibration_data` has to be a folder"):
        find_calibration_images(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no images: int8 is calibrated on about 100 real ones"):
        find_calibration_images(tmp_path)
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UsageError, match=r"no image of .* can be read: int8 is calibrated on about 100 real ones"):
        collect_samples(tmp_path, Seen(), samples.preprocess, samples.prompt, WORDS, LabelInputs(TABLE))


def test_training_images_are_taken_where_there_are_such(tmp_path, image_files):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        shutil.copy(image_files[0], tmp_path / part / f"{part}.png")
    assert [path.name for path in find_calibration_images(tmp_path)] == ["train.png"]


def test_a_class_of_trains_is_no_part(tmp_path, image_files):
    for number, name in enumerate(("bus", "train")):
        (tmp_path / name).mkdir()
        shutil.copy(image_files[number], tmp_path / name / f"{name}.png")
    assert [path.name for path in find_calibration_images(tmp_path)] == ["bus.png", "train.png"]
    for name in ("bus", "car"):
        (tmp_path / "train" / name).mkdir()
        shutil.move(tmp_path / "bus" / "bus.png", tmp_path / "train" / name / "bus.png")
        shutil.copy(image_files[0], tmp_path / "bus" / "bus.png")
    assert len(find_calibration_images(tmp_path)) == 3  # a part of class folders


def test_images_of_the_parity_check_are_left_out_wherever_they_lie(tmp_path, image_files):
    for number, file in enumerate(image_files[:4]):
        shutil.copy(file, tmp_path / f"{number}.png")
    excluded = [tmp_path / "0.png", image_files[2], tmp_path / "gone.png"]
    assert [path.name for path in find_calibration_images(tmp_path, excluded)] == ["1.png", "3.png"]
    with pytest.raises(
        UsageError,
        match=r"only images of the parity check, .* or compare fewer with `parity_images`",
    ):
        find_calibration_images(tmp_path, image_files[:4])


def test_a_large_folder_is_sampled_evenly():
    assert evenly(list(range(1000)), 4) == [0, 250, 500, 750]
    assert evenly([1, 2], 4) == [1, 2]
    assert len(evenly(range(9), 4)) == 4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_labels_and_all_sets_have_their_turn(samples, monkeypatch, count):
    monkeypatch.setattr(module, "TEXT_LABELS", 3)
    sets = np.arange(count, dtype=np.int32).reshape(count, 1, 1)
    every = Samples([], samples.preprocess, samples.prompt, sets, WORDS, LabelInputs(TABLE))
    labels, seen = set(), set()
    for feed in every.text():
        assert feed["retrieved"].shape == (1, 1, 1)
        assert len(feed["eot_rows"]) == 3
        labels |= {int(row // 4) for row in feed["suffix_tokens"][:, 0]}
        seen.add(int(feed["retrieved"].item()))
    assert (labels, seen) == (set(range(7)), set(range(count)))
    assert len(list(every.text(1))) == 1
