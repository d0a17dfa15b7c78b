"""The gate must fall when it should, name the stage, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from attri.export import onnx as exporter
from attri.export.onnx import export_bundle
from attri.export.parity import Gates, Stages, cosine, judge, same_top1
from attri.runtime.errors import ParityError, UsageError

LABELS = ["bird", "apple", "house"]
pytestmark = pytest.mark.usefixtures("shared_traces")


def stages(rng):
    unit = [
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (rng.normal(size=(8, 6)), rng.normal(size=(8, 3, 6)))
    ]
    features, text = (x.astype(np.float32) for x in unit)
    retrieved = rng.integers(0, 9, (8, 2, 2)).astype(np.int32)
    return Stages(features, retrieved, text, np.einsum("icd,id->ic", text, features))


@pytest.fixture
def reference():
    return stages(np.random.default_rng(0))


def held(report):
    return {stage.name: stage.held for stage in report.stages}


def test_equal_sides_pass(reference):
    assert all(held(judge(reference, reference, Gates.of("fp32"))).values())


def test_each_stage_is_judged_on_its_own(reference):
    gates = Gates.of("fp32")
    turned = reference.features.copy()
    turned[3] = np.roll(turned[3], 1)
    assert held(judge(reference, dataclasses.replace(reference, features=turned), gates))["image features"] is False
    flipped = reference.retrieved.copy()
    flipped[0, 0, 0] += 1
    report = judge(reference, dataclasses.replace(reference, retrieved=flipped), gates)
    assert held(report) == {"image features": True, "retrieved entries": False, "text features": True, "top-1": True}
    assert report.stages[1].mean == 1 - 1 / 32
    text = reference.text.copy()
    text[7, 2] *= -1
    assert held(judge(reference, dataclasses.replace(reference, text=text), gates))["text features"] is False


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_pass(reference, value):
    for name in ("features", "text", "cosines"):
        broken = getattr(reference, name).copy()
        broken[(0,) * broken.ndim] = value
        report = judge(reference, dataclasses.replace(reference, **{name: broken}), Gates(-1.0, 0.0, 1.0))
        assert not all(held(report).values()), name
    assert np.isnan(cosine(np.array([value, 1.0]), np.ones(2)))


def test_ties_may_fall_either_way():
    reference = np.array([[0.5, 0.5 - 5e-6], [0.5, 0.4]])
    assert same_top1(reference, reference[:, ::-1]).tolist() == [1.0, 0.0]


def test_a_graph_that_drifted_writes_nothing_and_is_named(pocket_model, picture_files, tmp_path, monkeypatch):
    trace = exporter.trace_text

    def drifted(model, precision, opset):
        proto = trace(model, precision, opset)
        table = max(proto.graph.initializer, key=lambda i: np.prod(i.dims))
        values = np.frombuffer(table.raw_data, np.float32)
        table.raw_data = np.roll(values, 1).tobytes()
        return proto

    export_bundle(pocket_model, tmp_path / "bundle", LABELS, picture_files[:4])
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    monkeypatch.setattr(exporter, "trace_text", drifted)
    with pytest.raises(ParityError, match=r"text features is 0\.\d+, the gate is 0.99999; nothing was written"):
        export_bundle(pocket_model, tmp_path / "bundle", LABELS, picture_files[:4])
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


def test_gates_given_by_hand_are_kept_in_the_bundle(pocket_model, picture_files, tmp_path):
    gates = Gates(0.5, 0.25, 0.125)
    report = export_bundle(pocket_model, tmp_path / "bundle", LABELS, picture_files[:4], gates=gates)
    stored = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["parity"]
    assert [stage["gate"] for stage in stored["stages"]] == [0.5, 0.25, 0.5, 0.125]
    assert stored["pictures"] == 4
    assert "image features" in report.table()


def test_parity_without_pictures_is_refused(pocket_model, tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UsageError, match="name a folder with --parity-data"):
        export_bundle(pocket_model, tmp_path / "bundle", LABELS, [tmp_path / "a.png"])
    assert not (tmp_path / "bundle").exists()


def test_black_white_and_checkerboard_stay_finite_in_half(pocket_model, picture_files, tmp_path):
    from attri.runtime import Classifier

    export_bundle(pocket_model, tmp_path / "bundle", LABELS, picture_files[:4], precision="fp16")
    classifier = Classifier.load(tmp_path / "bundle")
    checker = ((np.indices((64, 64)).sum(0) // 8 % 2)[..., None] * np.full(3, 255)).astype(np.uint8)
    for picture in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8), checker):
        assert np.isfinite(classifier(picture).probabilities).all()
