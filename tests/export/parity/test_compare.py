"""The gate must fall when it should, name the stage, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from attri.export import onnx as exporter
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity import images
from attri.export.parity.compare import compare_outputs
from attri.export.parity.gates import Gates
from attri.export.parity.images import read_images
from attri.export.parity.outputs import Outputs
from attri.export.parity.report import ParityReport, Stage
from attri.runtime import Classifier
from attri.runtime.engines.agreement import cosine, same_top1
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import FailedError, ParityError

LABELS = ["bird", "apple", "house"]


def stages(rng):
    unit = [
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (rng.normal(size=(8, 6)), rng.normal(size=(8, 3, 6)))
    ]
    features, text = (x.astype(np.float32) for x in unit)
    retrieved = rng.integers(0, 9, (8, 2, 2)).astype(np.int32)
    return Outputs(50.0, features, retrieved, text, np.einsum("icd,id->ic", text, features))


@pytest.fixture
def reference():
    return stages(np.random.default_rng(0))


def held(report):
    return {stage.name: stage.held for stage in report.stages}


def test_equal_sides_pass(reference):
    assert all(held(compare_outputs(reference, reference, Gates.of("fp32"))).values())


def test_each_stage_has_its_own_gate(reference):
    gates = Gates.of("fp32")
    turned = reference.features.copy()
    turned[3] = np.roll(turned[3], 1)
    assert (
        held(compare_outputs(reference, dataclasses.replace(reference, features=turned), gates))["image features"]
        is False
    )
    flipped = reference.retrieved.copy()
    flipped[0, 0, 0] += 1
    report = compare_outputs(reference, dataclasses.replace(reference, retrieved=flipped), gates)
    others = ("image features", "text features", "logits", "top-1")
    assert held(report) == {"retrieved entries": False} | dict.fromkeys(others, True)
    assert report.stages[1].mean == 1 - 1 / 32
    text = reference.text.copy()
    text[7, 2] *= -1
    assert held(compare_outputs(reference, dataclasses.replace(reference, text=text), gates))["text features"] is False


def test_a_stage_keeps_the_worst_of_each_image(reference):
    text = reference.text.copy()
    text[7, 2] *= -1
    stage = compare_outputs(reference, dataclasses.replace(reference, text=text), Gates.of("fp32")).stages[2]
    assert (stage.worst, stage.worst_image) == (pytest.approx(-1), 7)
    assert stage.mean == pytest.approx(1 - 2 / 24)
    assert stage.distances == pytest.approx([0] * 7 + [2])


def test_another_scale_is_a_difference_of_logits(reference):
    logits = compare_outputs(reference, dataclasses.replace(reference, scale=60.0), Gates.of("fp32")).stages[3]
    assert logits.values == pytest.approx(10 * np.abs(reference.cosines).max(1))
    assert logits.worst == logits.values.max()


def test_a_difference_is_held_below_its_gate_and_not_above():
    errors = np.array([[0.0, 0.25], [1.0, 0.75]])
    stages = [Stage.of(ParityStage.PIXELS, "difference", errors, gate, "mean") for gate in (0.5, 0.49)]
    assert [stage.held for stage in stages] == [True, False]
    assert (stages[0].worst, stages[0].values.tolist()) == (1.0, [0.25, 1.0])
    assert not Stage.of(ParityStage.PIXELS, "difference", errors * np.nan, 0.5, "mean").held


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_pass(reference, value):
    for name in ("features", "text", "cosines"):
        broken = getattr(reference, name).copy()
        broken[(0,) * broken.ndim] = value
        report = compare_outputs(reference, dataclasses.replace(reference, **{name: broken}), Gates(-1.0, 0.0, 1.0))
        assert not all(held(report).values()), name
    assert np.isnan(cosine(np.array([value, 1.0]), np.ones(2)))


def test_ties_may_fall_either_way():
    reference = np.array([[0.5, 0.5 - 5e-6], [0.5, 0.4]])
    assert same_top1(reference, reference[:, ::-1]).tolist() == [1.0, 0.0]


def test_a_graph_that_drifted_writes_nothing_and_is_named(bundle, pocket_model, image_files, tmp_path, monkeypatch):
    trace = exporter.trace_text

    def drifted(model, precision, opset):
        proto = trace(model, precision, opset)
        table = max(proto.graph.initializer, key=lambda i: np.prod(i.dims))
        values = np.frombuffer(table.raw_data, np.float32)
        table.raw_data = np.roll(values, 1).tobytes()
        return proto

    shutil.copytree(bundle, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    monkeypatch.setattr(exporter, "trace_text", drifted)
    where = r"text.onnx drifts first in block 0, MLP \(1 - cosine [\de.-]+\)"
    with pytest.raises(
        ParityError, match=rf"text features is 0\.\d+, the gate is 0.99999; {where}; nothing was written"
    ):
        export_bundle(pocket_model, tmp_path / "bundle", LABELS, image_files[:4])
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


def test_gates_given_by_hand_are_kept_in_the_bundle(pocket_model, image_files, tmp_path):
    gates = Gates(0.5, 0.25, 0.125)
    report = export_bundle(pocket_model, tmp_path / "bundle", LABELS, image_files[:4], ExportOptions(gates=gates))
    stored = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["parity"]
    assert [stage["gate"] for stage in stored["stages"]] == [1e-4, 0.5, 0.25, 0.5, None, 0.125]
    assert stored["images"] == 4
    assert "image features" in report.table()


def test_pixels_are_those_of_open_clip(pocket_model, image_files, tmp_path):
    for name, size in (("wide.png", (301, 97)), ("tall.jpg", (83, 240))):
        with Image.open(image_files[5]) as image:
            image.convert("RGB").resize(size).save(tmp_path / name)
    files = [*image_files[:2], tmp_path / "wide.png", tmp_path / "tall.jpg"]
    seen = read_images(pocket_model.backbone, [tmp_path / "none.png", *files])
    assert seen.files == files
    assert (seen.stage.worst, seen.stage.held) == (0.0, True)


def test_another_crop_than_open_clips_is_noticed(pocket_model, image_files, monkeypatch):
    transform = images.open_clip_transform(pocket_model.backbone)
    monkeypatch.setattr(images, "open_clip_transform", lambda _: lambda image: transform(image).roll(1, 2))
    stage = read_images(pocket_model.backbone, image_files[:2]).stage
    assert not stage.held
    report = ParityReport([stage], 2, 1)
    with pytest.raises(ParityError, match=r"pixels is 0\.\d+, the gate is 0.0001; nothing was written"):
        report.check()


def test_parity_without_images_is_refused(pocket_model, tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(
        FailedError, match=r"only 0 of 1 images .* can be read, half .* name another folder as `parity_d"
    ):
        export_bundle(pocket_model, tmp_path / "bundle", LABELS, [tmp_path / "a.png"])
    assert not (tmp_path / "bundle").exists()


def test_images_that_cannot_be_read_are_named_and_counted(pocket_model, image_files, tmp_path, caplog):
    broken = [tmp_path / f"broken {number}.png" for number in range(2)]
    for file in broken:
        file.write_text("not an image")
    report = export_bundle(pocket_model, tmp_path / "bundle", LABELS, [*broken, *image_files[:2]])
    assert "broken 1.png is not a" in caplog.text
    said = "2 images (only 2 of 4 could be read), 3 labels"
    assert report.table().splitlines()[0].endswith(said)
    assert said in (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["parity"]
    assert (stored["images"], stored["requested"]) == (2, 4)
    with pytest.raises(FailedError, match="only 1 of 3 images for the parity check can be read, half are needed"):
        read_images(pocket_model.backbone, [*broken, image_files[0]])


def test_black_white_and_checkerboard_stay_finite_in_half(fp16_bundle):
    classifier = Classifier.load(fp16_bundle)
    checker = ((np.indices((64, 64)).sum(0) // 8 % 2)[..., None] * np.full(3, 255)).astype(np.uint8)
    for image in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8), checker):
        assert np.isfinite(classifier(image).probabilities).all()
