"""parity.json and report.html: complete, true, and to be read anywhere; the page is opened in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from support.chromium import CHROMIUM, Browser

from attri.export import score_calibration as confidence_module
from attri.export.bundle import graph_stats
from attri.export.bundle.model_card import NOT_KNOWN, Card, licence
from attri.export.bundle.report import histogram, write_report
from attri.export.parity.compare import compare
from attri.export.parity.gates import Gates
from attri.export.parity.images import read_images
from attri.export.parity.outputs import open_unfinished
from attri.export.parity.report import ParityReport, Stage
from attri.export.score_calibration import ScoreCalibrationRequest, calibrate_scores
from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT, TEXT, VISION, Bundle, read_manifest
from attri.runtime.engines.verify import ParityStage
from attri.runtime.prompt import Prompt
from attri.train.data import Dataset, LabelledImage

HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "{{ 7 * 7 }}"]


@pytest.fixture(scope="module", autouse=True)
def _few_are_enough():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence_module, "MIN_IMAGES", 20)
        yield


@pytest.fixture(scope="module")
def report(pocket_model, bundle, image_files, tmp_path_factory):
    """report(labels, confidence, card): a bundle folder with a fresh report, and its parity.json."""
    folder = tmp_path_factory.mktemp("report")
    photos = [folder / "a place of this machine" / f"<b>&{number}.png" for number in range(8)]
    photos[0].parent.mkdir()
    for photo, file in zip(photos, image_files, strict=False):
        with Image.open(file) as image:
            image.convert("RGB").resize((300, 180)).save(photo)
    seen = read_images(pocket_model.backbone, photos)

    def write(name, labels=None, confidence=None, card=None, gates=None, exported=bundle):
        path = folder / name
        shutil.copytree(exported, path)
        for file in ("parity.json", "report.html", "manifest.json", PROMPT):
            (path / file).unlink()
        prompt = Prompt.read(bundle / PROMPT)
        given = Prompt.of(dataclasses.replace(prompt.facts, labels=labels or prompt.facts.labels), prompt.tensors)
        unfinished = Bundle(path, read_manifest(bundle), given)
        found = compare(pocket_model, unfinished, seen.pixels, gates or Gates.of("fp32"))
        found = dataclasses.replace(found, stages=[seen.stage, *found.stages])
        confidence = calibrate_scores(confidence or ScoreCalibrationRequest(), open_unfinished(unfinished))
        preprocess = pocket_model.backbone.preprocess()
        write_report(unfinished, found, seen, preprocess, card or Card(), confidence)
        return path, json.loads((path / "parity.json").read_text(encoding="utf-8"))

    return write


@pytest.fixture(scope="module")
def validation(bundle, image_files):
    """24 images of which the bundle gets 18 right, and the same images as those of other classes."""
    from attri.export.score_calibration import Validation

    said = [int(p.probabilities.argmax()) for p in Classifier.load(bundle, device="cpu")(image_files[:24])]
    images = [
        LabelledImage(file, (best + (i % 4 == 0)) % 3)
        for i, (file, best) in enumerate(zip(image_files, said, strict=False))
    ]
    base = Dataset(image_files[0].parent, "some", ["red apple", "bird", "a small house"], [], [], images)
    return Validation("validation images", base, dataclasses.replace(base, classes=["cat", "tree", "car"]))


@pytest.fixture(scope="module")
def full(report, validation, image_files):
    rows = [
        {"of": "base", "classes": 12, "images": 92, "prompted": 0.75, "zero_shot": 0.712},
        {"of": "novel", "classes": 12, "images": 75, "prompted": 0.48, "zero_shot": None},
    ]
    train = {"images": 24, "shots": 2, "epochs": 3, "seed": 1}
    request = ScoreCalibrationRequest(validation, "", image_files[30:40], 0.2, asked=True)
    return report("full", confidence=request, card=Card("photos", [*HOSTILE, "bird"], train, rows))


@pytest.mark.parametrize("way", ["false rejects", "negatives alone"])
def test_a_threshold_of_either_kind_alone_is_explained(report, validation, image_files, way):
    if way == "false rejects":
        request = ScoreCalibrationRequest(validation, "", false_rejects=0.2, asked=True)
        says = "at most 20.0% of the validation images are rejected"
    else:
        request = ScoreCalibrationRequest(negatives=image_files[30:40], false_accepts=0.2)
        says = "at most 20.0% of 10 images of none of the labels pass"
    path, _ = report(way, confidence=request)
    assert says in (path / "report.html").read_text(encoding="utf-8")


def test_parity_json_says_what_was_compared(full):
    path, facts = full
    names = ["pixels", "image features", "retrieved entries", "text features", "logits", "top-1"]
    assert [stage["name"] for stage in facts["stages"]] == names
    assert len(facts["images"]) == 8
    assert facts["images"][0] == "a place of this machine/<b>&0.png"
    for stage in facts["stages"]:
        assert len(stage["distances"]) == 8
        assert stage["worst_image"] == facts["images"][int(np.argmax(stage["distances"]))]
    assert set(facts["files"]) == {VISION, TEXT, "token_embedding.npy", "merges.txt.gz", "reference.npz"}
    assert {"python", "torch", "onnx", "onnxruntime", "attri"} <= set(facts["versions"])
    assert facts["model"]["licence"].startswith("made for attri from images under Apache-2.0")
    for file in ("parity.json", "report.html"):
        assert str(path.parent) not in (path / file).read_text(encoding="utf-8")


def test_operations_are_counted_as_on_paper(full, pocket_model):
    """Blocks of width W over T tokens: 12 W^2 per token in the linear layers, and 2 T^2 W in attention."""
    found = full[1]["graphs"][VISION]
    T, W, D, L = 64 + 1, 192, 192, 6
    blocks = L * (12 * T * W * W + 2 * T * T * W)
    patches, projection = 64 * W * 3 * 8 * 8, W * D
    retrieval = found["products"] - blocks - patches - projection
    keys = L * 2 * D * 16  # of six blocks and two centres with sixteen keys
    assert keys < retrieval < 0.06 * blocks
    assert found["inputs"] == {"pixels": [1, 3, 64, 64], "keys": [6, 192, 16]}
    assert found["nodes"]["LayerNormalization"] == 1 + 2 * L + L + 1  # ln_pre, two a block, ln_post for each source
    assert found["constants"] > sum(p.numel() for p in pocket_model.backbone.clip.visual.parameters()) - W * D


def test_products_of_every_kind_are_counted():
    def info(name, *dims):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    m = helper.make_tensor("m", TensorProto.FLOAT, [7, 4], np.zeros(28, np.float32))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], group=2),
        helper.make_node("MatMul", ["a", "m"], ["b"]),
        helper.make_node("Gemm", ["c", "m"], ["d"], transA=1),
        helper.make_node("Relu", ["d"], ["e"]),
    ]
    w = helper.make_tensor("w", TensorProto.FLOAT, [6, 2, 3, 3], np.zeros(108, np.float32))
    inputs = [info("x", 1, 4, 6, 6), info("a", 2, "N", 7), info("c", 7, 3)]
    graph = helper.make_graph(
        nodes, "g", inputs, [info("y", 1, 6, 4, 4), info("b", 2, "N", 4), info("e", 3, 4)], [w, m]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    shapes = {"x": (1, 4, 6, 6), "a": (2, 9, 7), "c": (7, 3)}
    found = graph_stats.count(proto, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert found["products"] == 6 * 16 * 2 * 9 + 2 * 9 * 4 * 7 + 3 * 4 * 7
    assert found["constants"] == 108 + 28
    assert found["nodes"] == {"Conv": 1, "Gemm": 1, "MatMul": 1, "Relu": 1}


def test_the_histogram_holds_every_image_once():
    values = np.array([1.0, 1 - 3e-8, 1 - 2e-3, 1 - 1e-20, 0.5])
    found = histogram(Stage(ParityStage.LOGITS, "cosine", 0.5, 0.9, 0.999, "worst", values))
    counts = {bar["exponent"]: bar["count"] for bar in found["bars"]}
    assert counts == {None: 2, **dict.fromkeys(range(-8, 0), 0), -8: 1, -3: 1, -1: 1}
    assert list(counts)[1:] == list(range(-8, 0))
    assert found["gate"] == pytest.approx(1 + 8 + math.log10(1 - 0.999))
    nothing = histogram(Stage(ParityStage.LOGITS, "difference", 0.0, 0.0, None, "worst", np.zeros(3)))
    assert (nothing["gate"], nothing["bars"][0]) == (None, {"exponent": None, "count": 3})


def test_licences_are_said_only_where_they_are_known():
    assert licence("ViT-B-32", "openai").startswith("MIT")
    assert licence("ViT-B-32", "metaclip_400m").startswith("CC BY-NC 4.0")
    assert licence("pocket", "embedded").startswith("made for attri")
    for name, weights in (
        ("ViT-B-32", "laion400m_e31"),
        ("ViT-B-32", "random"),
        ("ViT-B-32", "openai.pt"),
        ("ViT-B-32", "./openai"),
        ("local-dir:clip", "own"),
    ):
        assert licence(name, weights) == NOT_KNOWN


def test_images_of_one_name_keep_their_own_thumbnails(pocket_model, bundle, image_files, tmp_path):
    files = [tmp_path / place / "door" / "1.png" for place in "ab"]
    for file, image in zip(files, image_files, strict=False):
        file.parent.mkdir(parents=True)
        shutil.copy(image, file)
    seen = read_images(pocket_model.backbone, files)
    values = np.array([[1.0, 0.5], [0.5, 1.0]])
    stages = [Stage(ParityStage.LOGITS, "cosine", 0.5, 0.75, None, "worst", v) for v in values]
    shutil.copytree(bundle, tmp_path / "bundle")
    opened = Bundle.open(tmp_path / "bundle")
    write_report(
        opened, ParityReport(stages, 2, 3), seen, pocket_model.backbone.preprocess(), Card(), measured_nothing()
    )
    page = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    assert len(set(re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page))) == 2


def measured_nothing():
    return {"temperature": 1.0, "threshold": None, "validation": None, "why": "not asked for"}


def test_a_bundle_of_unknown_origin_says_so(report):
    path, _ = report("bare")
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "this bundle was not exported from a run with results" in page
    assert "Not calibrated: not asked for." in page
    assert "Nothing is rejected" in page


def test_a_gate_that_was_missed_is_shown_as_missed(report):
    path, facts = report("missed", gates=Gates(1.0, 1.0, 1.0))
    assert [stage["held"] for stage in facts["stages"]].count(False) == 2
    page = (path / "report.html").read_text(encoding="utf-8")
    assert page.count("MISSED") == 2
    assert "3 of 5 gates held" in page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (.ci/packages.txt)")
def test_the_page_in_a_real_browser(full, tmp_path):
    page = full[0] / "report.html"
    browser = Browser(tmp_path / "profile")
    try:
        colours = []
        for width, dark in ((1200, False), (1200, True), (390, False)):
            browser.requests.clear()
            browser.open(page.as_uri(), width=width, dark=dark)
            browser.wait_for(f"document.readyState === 'complete' && location.href === {page.as_uri()!r}")
            assert {url.partition(":")[0] for url in browser.requests} == {"file", "data"}
            assert [url for url in browser.requests if url.startswith("file:")] == [page.as_uri()]
            sides = browser.js("[...document.images].map(image => image.naturalWidth)")
            assert set(sides) == {64}
            assert browser.js("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            assert browser.js("document.documentElement.scrollHeight") < (9000 if width < 500 else 6000)
            colours.append(browser.js("getComputedStyle(document.body).backgroundColor"))
            browser.screenshot(tmp_path / f"{width}-{dark}.png")
        words = browser.js("document.body.innerText")
        assert browser.js("document.querySelectorAll('svg').length") == 6 + 4
        assert browser.js("document.scripts.length + document.links.length") == 0
        assert browser.complaints == []
    finally:
        browser.close()
    assert colours[0] == colours[2] != colours[1]
    for said in (*HOSTILE, "a place of this machine/<b>&", "base accuracy, 92 images, 12 classes", "75.0%"):
        assert said in words
    assert "zero-shot 71.2%: +3.8 points" in words
    assert "zero-shot not measured" in words
    assert re.search(
        r"Logits are divided by the temperature \d+\.\d{3}, fitted on 24 validation images, none of which", words
    )
    assert re.search(r"at most 20.0% of 10 images of none of the labels pass; \d+.0% do", words)
    assert "(AUROC)" in words
    with Image.open(io.BytesIO((tmp_path / "390-False.png").read_bytes())) as shot:
        assert len(shot.convert("L").getcolors()) > 50  # something is painted


def test_heat_maps_are_shown_where_the_bundle_can_explain(report, explained_bundle):
    path, _ = report("explained", exported=explained_bundle)
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "What speaks for a label" in page
    shown = re.findall(r'class="explained"><img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(shown) == 4
    for data in shown:
        with Image.open(io.BytesIO(base64.b64decode(data))) as panels:
            assert panels.format == "JPEG"
            assert panels.width > 3 * 240  # the image, its label, its label and not the second best


def test_without_the_graph_of_explanations_there_are_no_heat_maps(full):
    assert "What speaks for a label" not in (full[0] / "report.html").read_text(encoding="utf-8")
