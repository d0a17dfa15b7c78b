"""An int8 bundle from the images to attri-run: both flavours, the search for what stays float32, and refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from support.int8 import LABELS, export_int8
from support.manifests import edit_manifest

from attri.export import onnx as exporter
from attri.export import quantize as module
from attri.export.bundle.report import JSON, PAGE
from attri.export.cli import main as export_main
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.quantize import Calibration
from attri.runtime import Classifier
from attri.runtime.bundle import FILES, MANIFEST, PROMPT, REFERENCE, SYMMETRIC, TEXT, VISION, Bundle
from attri.runtime.cli.run import main as run_main
from attri.runtime.errors import BundleError, FailedError, UsageError

EXTRAS = (JSON, PAGE, REFERENCE)


@pytest.fixture(scope="module")
def exported(int8_bundle):
    """Read it, copy it, do not write to it; beside it is what was told while it was made."""
    return int8_bundle


@pytest.fixture(scope="module")
def photos(exported):
    """What it was calibrated on."""
    return exported.parent / "photos"


def kinds(path):
    """Types of the activations of a graph's QuantizeLinear nodes."""
    graph = onnx.load(path).graph
    weights = {weight.name: weight.data_type for weight in graph.initializer}
    return {weights[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}


def test_a_bundle_holds_both_flavours_and_the_reader_picks(exported):
    opened = Bundle.open(exported)
    assert opened.manifest.precision == "int8"
    listed = set(opened.manifest.files)
    assert listed == {*FILES, *SYMMETRIC.values(), *EXTRAS} == {f.name for f in exported.iterdir()} - {MANIFEST, PROMPT}
    for name in (VISION, TEXT):
        assert opened.graph(name).resolve() == exported / name
        assert opened.graph(name, tensorrt=True).resolve() == exported / SYMMETRIC[name]
        assert kinds(opened.graph(name)) == {onnx.TensorProto.UINT8}
        assert kinds(opened.graph(name, tensorrt=True)) == {onnx.TensorProto.INT8}
    assert opened.token_embedding().dtype == np.float16


def test_other_bundles_have_one_graph_for_all(bundle):
    opened = Bundle.open(bundle)
    assert opened.graph(VISION, tensorrt=True).resolve() == opened.graph(VISION).resolve() == bundle / VISION


def test_a_bundle_without_its_second_flavour_is_refused(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    edit_manifest(copy, lambda raw: raw["files"].pop(SYMMETRIC[VISION]))
    with pytest.raises(BundleError, match=r"does not list vision.s8.onnx"):
        Bundle.open(copy)


def test_both_flavours_went_through_the_gates(exported):
    manifest = Bundle.open(exported).manifest
    names = ["image features", "retrieved entries", "text features", "top-1"]
    stages = [s for s in manifest.parity["stages"] if s["gate"] is not None and s["arithmetic"]]
    assert [s["name"] for s in stages] == [f"{n}, {f}" for f in ("U8S8", "S8S8") for n in names]
    assert [s["gate"] for s in stages] == [0.98, 0.9, 0.98, 0.9] * 2
    assert all(s["held"] for s in stages)
    assert all(0.98 < s["worst"] < 0.9999999 for s in stages if "features" in s["name"])  # integers, not floats
    assert manifest.arithmetic["method"] == "minmax"
    assert manifest.arithmetic["images"] == 16
    graphs = manifest.arithmetic["graphs"]
    assert {name: graph["flavour"] for name, graph in graphs.items()} == {
        VISION: "U8S8",
        TEXT: "U8S8",
        SYMMETRIC[VISION]: "S8S8",
        SYMMETRIC[TEXT]: "S8S8",
    }
    assert all(graph["initializers"] > 0.9 and graph["float_layers"] == [] for graph in graphs.values())
    assert (exported.parent / "told.txt").read_text().startswith("int8: 16 calibration images")


def test_attri_run_takes_it(exported, bundle, photos):
    result = CliRunner().invoke(run_main, [str(photos), "--bundle", str(exported), "--json", "--topk", "3"])
    assert result.exit_code == 0, result.output
    scores = [{top["label"]: top["score"] for top in json.loads(line)["top"]} for line in result.stdout.splitlines()]
    reference = Classifier.load(bundle, device="cpu")([str(file) for file in sorted(photos.iterdir())])
    worst = max(abs(score[label] - p) for score, r in zip(scores, reference, strict=True) for label, p in r.top(3))
    # int8 moves cosines by under 0.005, times a scale of 100 in the exponent.
    assert 0 < worst < 0.3


def test_the_same_images_give_the_same_bytes_and_an_old_bundle_is_replaced_whole(
    exported, bundle, pocket_model, image_files, photos, tmp_path
):
    shutil.copytree(bundle, tmp_path / "bundle")
    export_int8(pocket_model, image_files, tmp_path / "bundle", Calibration(photos))
    first, second = ({k: v for k, v in Bundle.open(p).manifest.__dict__.items() if k != "created"}
                     for p in (exported, tmp_path / "bundle"))  # fmt: skip
    assert first == second  # it holds the sha256 of every other file
    export_bundle(pocket_model, tmp_path / "bundle", LABELS, image_files[:2])
    assert set(Bundle.open(tmp_path / "bundle").manifest.files) == {*FILES, *EXTRAS}
    assert {file.name for file in (tmp_path / "bundle").iterdir()} == {*FILES, *EXTRAS, MANIFEST, PROMPT}
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_layers_that_hurt_go_back_until_the_target_is_reached(pocket_model, image_files, photos, tmp_path, monkeypatch):
    """Block 2 of the vision graph is given ranges that clip nearly everything."""
    measure_source = module.measure_source

    def clipping(file, samples, method, folder, progress):
        source = measure_source(file, samples, method, folder, progress)
        if file.name == VISION:
            hurt = module.qdq.activations(source.proto.graph, {"block 2": source.found["block 2"]})
            source.measured.update(dict.fromkeys(hurt, (-0.05, 0.05)))
        return source

    monkeypatch.setattr(module, "measure_source", clipping)
    lines = []
    report = export_int8(pocket_model, image_files, tmp_path / "b", Calibration(photos, target=0.985), lines.append)
    assert all(stage.held for stage in report.stages)
    gates = [stage.gate for stage in report.stages if "," in stage.name and stage.gate is not None]
    assert gates == [0.985, 0.9, 0.985, 0.9] * 2
    graphs = Bundle.open(tmp_path / "b").manifest.arithmetic["graphs"]
    for name in (VISION, SYMMETRIC[VISION]):
        assert graphs[name]["float_layers"] == ["block 2"]
        drifts = {layer: drift["cosine"] for layer, drift in graphs[name]["sensitivity"].items()}
        assert max(drifts, key=drifts.get) == "block 2"
        assert graphs[name]["initializers"] < 0.85
    assert graphs[TEXT]["float_layers"] == []
    assert any("block 2 of vision.onnx goes back to float32, 17% of its weights are now" in line for line in lines)


def test_a_target_out_of_reach_writes_nothing(pocket_model, image_files, photos, tmp_path):
    with pytest.raises(
        FailedError, match=r"int8 \(U8S8\) does not reach 1 in image features: with a single layer in int8"
    ):
        export_int8(pocket_model, image_files, tmp_path / "b", Calibration(photos, target=1.0))
    assert list(tmp_path.iterdir()) == []


def test_images_of_the_parity_check_calibrate_nothing(pocket_model, image_files, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "trace_vision", None)
    shutil.copytree(photos, tmp_path / "photos")
    with pytest.raises(UsageError, match="only images of the parity check"):
        export_bundle(
            pocket_model,
            tmp_path / "b",
            LABELS,
            image_files[:16],
            ExportOptions(precision="int8", calibration=Calibration(tmp_path / "photos")),
        )


def test_a_target_below_the_gate_is_refused(pocket_model, image_files, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "trace_vision", None)
    with pytest.raises(UsageError, match=r"`int8_target` 0.9 is below the gate, 0.98: .* with `min_cosine`"):
        export_int8(pocket_model, image_files, tmp_path / "b", Calibration(photos, target=0.9))


@pytest.mark.parametrize("when", ["ranges of", "of pool entries"])
def test_stopped_half_way_it_leaves_nothing(pocket_model, image_files, photos, tmp_path, when):
    def stop(line):
        if when in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_int8(pocket_model, image_files, tmp_path / "b", Calibration(photos), stop)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_calibrated_is_refused_before_anything_is_traced(
    pocket_model, image_files, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(exporter, "trace_vision", None)
    (tmp_path / "empty").mkdir()
    for calibration, message in [
        (None, "int8 needs calibration images"),
        (Calibration(tmp_path / "nowhere"), "no such folder"),
        (Calibration(tmp_path / "empty"), "holds no images"),
        (Calibration(photos, "kmeans"), "choose minmax, percentile, entropy"),  # type: ignore[arg-type]  # refused
    ]:
        with pytest.raises(UsageError, match=message):
            export_int8(pocket_model, image_files, tmp_path / "b", calibration)
    options = ExportOptions(calibration=Calibration(photos))
    with pytest.raises(UsageError, match="nothing else does"):
        export_bundle(pocket_model, tmp_path / "b", LABELS, image_files[:2], options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "name a folder of about 100 with --calibration-data"),
        (["--int8", "--fp16", "--calibration-data", "x"], "--int8 and --fp16 exclude each other"),
        (["--calibration-data", "x"], "--calibration-data without --int8: nothing would use it"),
        (["--int8-target", "0.9", "--calibration-method", "entropy"], "--calibration-method and --int8-target without"),
        (["--int8", "--calibration-data", "x", "--calibration-method", "kmeans"], "'minmax', 'percentile', 'entropy'"),
        (["--int8", "--calibration-data", "x", "--int8-target", "1.5"], "1.5 is not in the range"),
    ],
)
def test_options_that_do_not_go_together(arguments, message):
    result = CliRunner().invoke(export_main, arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_the_gates_of_int8_are_those_of_the_design():
    assert Gates.of("int8") == Gates(0.98, 0.95, 0.97)
