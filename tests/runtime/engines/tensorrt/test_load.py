"""From a bundle to running engines: what is chosen, built, found again and refused, and what the commands say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.manifests import edit_manifest, set_manifest
from support.prompts import kinds_of_prompts
from support.tensorrt.standin import bindings

from attri.export.cli import main as attri_export
from attri.runtime import Classifier
from attri.runtime.bundle import LABEL, REFERENCE, Bundle, file_entry
from attri.runtime.cli.run import main as attri_run
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.select import EngineOptions, open_engines
from attri.runtime.engines.tensorrt.cache import EngineCache
from attri.runtime.engines.tensorrt.cuda import system
from attri.runtime.engines.verify import compare
from attri.runtime.errors import BundleError, EngineError, ImageError, ParityError

HERE = Path(__file__).parent
LABELS = ["red apple", "bird", "a small house", "cat"]


def move(jetson, cudart, monkeypatch, tmp_path, gpu=("Orin", "8.7")):
    """From here on this is another machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    jetson.gpu = gpu
    cudart.fake_device(gpu[0].encode(), 1, *map(int, gpu[1].split(".")))


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106"])
def test_built_once_found_again_and_right(version, copy, cudart, jetson, monkeypatch, image_files, capfd):
    trt = bindings(version, cudart)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    first = Classifier.load(copy, LABELS)
    assert first.description == f"TensorRT {version} on Orin"
    assert trt.builds == 2
    second = Classifier.load(copy, LABELS)
    assert trt.builds == 2
    reference = Classifier.load(copy, LABELS, backend="onnxruntime", device="cpu", threads=1)
    for classifier in (first, second):
        for found, wanted in zip(classifier(image_files[:3]), reference(image_files[:3]), strict=True):
            assert found.label == wanted.label
            np.testing.assert_equal(found.retrieved, wanted.retrieved)
            # The same arithmetic in the same library: what differs is the batch.
            np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)
        classifier.close()
    assert sorted({file.suffix for file in (copy / "engines").iterdir() if file.name != ".lock"}) == [
        ".cache",
        ".json",
        ".plan",
        ".seal",
    ]
    for name in ("vision", "text"):
        (file,) = (copy / "engines").glob(f"{name}.*.json")
        figures = json.loads(file.read_text())["figures"]
        assert min(figures["parity"].values()) > 0.99999
        assert figures["types"] == {"half": 0, "int8": 0, "float32": 1}
    Bundle.open(copy)  # is still whole


def test_a_label_graph_is_built_verified_and_run_for_as_many_labels_as_fit(
    siglip_bundle, tmp_path, jetson, image_files, monkeypatch
):
    path = tmp_path / "siglip"
    shutil.copytree(siglip_bundle, path)
    told: list[str] = []
    bundle = Bundle.open(path)
    engines = open_engines(bundle, progress=told.append)
    assert len(engines) == jetson.builds == 3
    assert any("label" in line and "least parity figure" in line for line in told)
    for engine in engines:
        engine.close()
    many = [f"a {colour} {thing}" for colour in ("red", "green", "small") for thing in ("apple", "bus", "bird") * 20]
    with Classifier.load(path, many) as first, Classifier.load(path, many, backend="onnxruntime") as reference:
        assert jetson.builds == 3
        assert first.description.startswith("TensorRT 10.3.0")
        found, wanted = (each(image_files[0]) for each in (first, reference))
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)


def test_a_label_engine_that_differs_is_not_used(siglip_bundle, tmp_path, jetson):
    path = tmp_path / "siglip"
    shutil.copytree(siglip_bundle, path)
    reference = dict(np.load(path / REFERENCE))
    reference["text.states"] = np.flip(reference["text.states"], -1)
    np.savez(path / REFERENCE, **reference)
    edit_manifest(path, lambda raw: raw["files"].update({REFERENCE: file_entry(path / REFERENCE)}))
    with pytest.raises(ParityError, match=r"label states of label.onnx is -?0\.\d+ on the bundle's own images"):
        compare(Bundle.open(path), LABEL, OrtEngine(path / LABEL, "cpu"))


def test_sources_with_different_prompts_leave_their_keys_on_the_device(copy, cudart, jetson, image_files):
    """Their keys are one table: of a frame only the pixels are copied, whichever source's turn it is."""
    prompts, image = list(kinds_of_prompts(copy).values()), image_files[0]
    with Classifier.load(copy) as classifier:
        sources = [classifier.fork() for _ in prompts]
        for source, prompt in zip(sources, prompts, strict=True):
            source.set_prompt(prompt)
        wanted = [source(image) for source in sources]
        copies = []
        for _ in range(4):
            found = []
            for source in sources:
                before = cudart.fake_uploads()
                (predictions,) = source.classify_each([image], [[(source, None)]], prompts)
                assert not isinstance(predictions, ImageError)
                found += predictions
                copies.append(cudart.fake_uploads() - before)
        for one, alone in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one.retrieved, alone.retrieved)
            np.testing.assert_allclose(one.probabilities, alone.probabilities, rtol=0, atol=1e-6)  # rounding alone
    assert copies == [2] + [1] * 15  # the table came with the first; text features are in the cache


def test_attri_run_builds_says_so_and_prints_what_runs(copy, jetson, image_files, tmp_path):
    arguments = [image_files[0], "--bundle", copy, "--json"]
    first, second = run(attri_run, *arguments), run(attri_run, *arguments)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert json.loads(first.stdout)["label"] == json.loads(second.stdout)["label"]
    lines = first.stderr.splitlines()
    assert lines[0] == "building vision.onnx for TensorRT 10.3.0"
    assert lines[1].startswith(f"{copy}/engines/vision.")
    assert "TensorRT 10.3.0 on Orin" in second.stderr.splitlines()[0]
    assert jetson.builds == 2
    third = run(attri_run, *arguments, "--rebuild-engines")
    assert third.exit_code == 0
    assert jetson.builds == 4
    assert len(list((copy / "engines").glob("*.plan"))) == 2


HANGING = """
import sys, threading, time
from support.tensorrt import as_gpu
as_gpu.pytest_configure()
from attri.runtime.cli.run import main
from attri.runtime.pipeline.pipeline import Pipeline

cudart = sys.modules["tensorrt"].cudart
run = Pipeline.run

def run_and_hang(self, sinks):  # the bundle is loaded and its reference images were run
    cudart.fake_hang(1)
    return run(self, sinks)

Pipeline.run = run_and_hang

def tell():
    while not cudart.fake_waiting():
        time.sleep(0.01)
    print("it hangs", file=sys.stderr, flush=True)

threading.Thread(target=tell, daemon=True).start()
main(prog_name="attri-run")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_hung_gpu_does_not_keep_attri_run_from_ending(copy, jetson, cudart_file, image_files, number, code):
    """The promise is 2 s; without it the process never ends."""
    Classifier.load(copy).close()
    environment = os.environ | {"ATTRI_CUDART": str(cudart_file), "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", HANGING, image_files[0], "--bundle", copy]
    with subprocess.Popen(words, env=environment, text=True, stderr=subprocess.PIPE) as run:
        try:
            while run.stderr.readline() != "it hangs\n":
                assert run.poll() is None
            run.send_signal(number)
            run.wait(60)
        finally:
            run.kill()
        assert run.returncode == code
        assert "a run on the GPU has not ended" in run.stderr.read()


def test_what_is_fused_is_not_judged_by_its_types(copy, jetson):
    set_manifest(copy, precision="fp16")
    with pytest.raises(EngineError, match=r"0% of the tensors of vision.onnx are half"):  # the graphs are float32
        open_engines(Bundle.open(copy))
    jetson.fused, told = True, []
    for engine in open_engines(Bundle.open(copy), progress=told.append):
        engine.close()
    note = "TensorRT does not show how much of {} is fp16: only its outputs are checked"
    assert [line for line in told if "show" in line] == [note.format(name) for name in ("vision.onnx", "text.onnx")]
    (file,) = (copy / "engines").glob("vision.*.json")
    assert json.loads(file.read_text())["figures"]["types"] is None


@pytest.mark.parametrize("name", ["vision", "text"])
def test_an_engine_that_computes_something_else_is_not_kept(copy, jetson, monkeypatch, name):
    load = jetson.Runtime.deserialize_cuda_engine

    def skewed(self, serialized):
        jetson.skew = (
            0.05 if name.encode() in serialized and (b"text_features" in serialized) == (name == "text") else 0.0
        )
        return load(self, serialized)

    monkeypatch.setattr(jetson.Runtime, "deserialize_cuda_engine", skewed)
    jetson.skew = 0.05
    with pytest.raises(
        ParityError, match=r"does not agree with the PyTorch model: (image|text) features of .* the gate is 0.99999"
    ):
        Classifier.load(copy)
    assert not list((copy / "engines").glob(f"{name}.*"))


def test_nan_is_not_agreement(copy, jetson):
    jetson.skew = float("nan")
    with pytest.raises(ParityError, match=r"image features of vision.onnx is nan"):
        Classifier.load(copy)
    assert not list((copy / "engines").glob("*.plan"))


def test_a_bundle_without_reference_images_cannot_be_checked(copy, jetson):
    (copy / REFERENCE).unlink()
    edit_manifest(copy, lambda raw: raw["files"].pop(REFERENCE))
    with pytest.raises(BundleError, match=r"does not list reference.npz: export the bundle again"):
        Classifier.load(copy)


def test_engines_of_another_machine_are_named_and_new_ones_built(copy, cudart, jetson, monkeypatch, tmp_path):
    Classifier.load(copy).close()
    move(jetson, cudart, monkeypatch, tmp_path, ("NVIDIA Thor", "11.0"))
    told = []
    for engine in open_engines(Bundle.open(copy), progress=told.append):
        engine.close()
    assert told[0] == (
        f"{copy}/engines has an engine of vision for TensorRT 10.3.0 on Orin (compute capability 8.7, {system()}),"
        f" which does not run on TensorRT 10.3.0 on NVIDIA Thor (compute capability 11.0, {system()})"
    )
    assert jetson.builds == 4


def test_a_copied_engine_of_an_equal_machine_is_refused_until_it_is_rebuilt(
    copy, cudart, jetson, monkeypatch, tmp_path, image_files
):
    Classifier.load(copy).close()
    move(jetson, cudart, monkeypatch, tmp_path)
    result = run(attri_run, image_files[0], "--bundle", copy)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {copy}/engines/vision.")
    machine = f"TensorRT 10.3.0 on Orin (compute capability 8.7, {system()})"
    assert f"built for {machine}, was not built on this machine" in line
    assert line.endswith(f"this is {machine}: --rebuild-engines makes a new one")
    assert run(attri_run, image_files[0], "--bundle", copy, "--rebuild-engines").exit_code == 0
    assert run(attri_run, image_files[0], "--bundle", copy).exit_code == 0
    assert jetson.builds == 4


def test_an_engine_that_tensorrt_does_not_take_names_both_machines(copy, jetson):
    Classifier.load(copy).close()
    jetson.gpu = ("Orin", "8.6")  # a change that the name does not show
    with pytest.raises(
        EngineError, match=r"incompatible device.*was built for TensorRT 10.3.0 on Orin.*this is.*`rebuild_engines`"
    ):
        Classifier.load(copy)


def test_engines_live_where_they_are_told_to(copy, jetson, tmp_path, image_files):
    folder = tmp_path / "elsewhere" / "engines"
    assert run(attri_run, image_files[0], "--bundle", copy, "--engine-dir", folder).exit_code == 0
    assert len(list(folder.glob("*.plan"))) == 2
    assert not (copy / "engines").exists()


def test_portable_engines_are_listed_and_taken_by_other_machines(copy, cudart, jetson, monkeypatch, tmp_path):
    result = run(attri_export, copy, "--trt", "--hardware-compatible")
    assert result.exit_code == 0, result.output
    listed = [name for name in Bundle.open(copy).manifest.files if name.startswith("engines/")]
    assert len(listed) == 4
    move(jetson, cudart, monkeypatch, tmp_path, ("Some RTX", "8.9"))
    Classifier.load(copy).close()
    assert jetson.builds == 2
    (engine,) = (copy / "engines").glob("vision.*.plan")
    engine.write_bytes(engine.read_bytes() + b"evil")
    with pytest.raises(EngineError, match=r"is damaged; .*`rebuild_engines`"):
        Classifier.load(copy)
    Classifier.load(copy, backend="onnxruntime", device="cpu", threads=1).close()  # which has no use for it


def test_a_portable_engine_of_a_workstation_is_none_for_a_jetson(copy, cudart, jetson, monkeypatch, tmp_path):
    assert run(attri_export, copy, "--trt", "--hardware-compatible").exit_code == 0
    move(jetson, cudart, monkeypatch, tmp_path, ("Orin", "8.7"))
    monkeypatch.setattr("attri.runtime.engines.tensorrt.load.system", lambda: "aarch64 Tegra")
    Classifier.load(copy).close()
    assert jetson.builds == 4


def test_a_jetson_builds_no_portable_engines(copy, jetson, monkeypatch):
    monkeypatch.setattr("attri.export.engine_options.is_tegra", lambda: True)
    result = run(attri_export, copy, "--trt", "--hardware-compatible")
    assert result.exit_code == 2
    assert "--hardware-compatible: TensorRT has no such engines on JetPack" in result.stderr
    assert jetson.builds == 0


def test_the_record_of_a_listed_engine_is_held_to_its_hash_too(copy, cudart, jetson, monkeypatch, tmp_path):
    assert run(attri_export, copy, "--trt", "--hardware-compatible").exit_code == 0
    move(jetson, cudart, monkeypatch, tmp_path, ("Some RTX", "8.9"))
    (record,) = (copy / "engines").glob("vision.*.json")
    record.write_text(record.read_text().replace('"version_compatible": false', '"version_compatible": true'))
    with pytest.raises(EngineError, match="engines are code"):
        Classifier.load(copy)


def test_listed_engines_may_be_rebuilt_and_those_of_others_stay_listed(copy, cudart, jetson, monkeypatch, tmp_path):
    assert run(attri_export, copy, "--trt", "--hardware-compatible").exit_code == 0
    first = {name for name in Bundle.open(copy).manifest.files if name.startswith("engines/")}
    move(jetson, cudart, monkeypatch, tmp_path)
    jetson.__version__ = "10.4.0"
    assert run(attri_export, copy, "--trt", "--hardware-compatible").exit_code == 0
    both = {name for name in Bundle.open(copy).manifest.files if name.startswith("engines/")}
    assert first < both
    assert len(both) == 8
    for engine in open_engines(Bundle.open(copy), EngineOptions(rebuild_engines=True)):
        engine.close()
    assert not all((copy / name).exists() for name in both)
    Bundle.open(copy)
    assert run(attri_export, copy, "--trt", "--hardware-compatible").exit_code == 0
    assert {name for name in Bundle.open(copy).manifest.files if name.startswith("engines/")} == both


def test_a_rebuild_that_fails_leaves_the_engine_that_worked(copy, jetson):
    Classifier.load(copy).close()
    before = {file: file.read_bytes() for file in (copy / "engines").iterdir()}
    jetson.skew = float("nan")
    with pytest.raises(ParityError):
        open_engines(Bundle.open(copy), EngineOptions(rebuild_engines=True))
    jetson.broken = "build"
    with pytest.raises(EngineError):
        open_engines(Bundle.open(copy), EngineOptions(rebuild_engines=True))
    assert {file: file.read_bytes() for file in (copy / "engines").iterdir()} == before


def test_an_engine_that_is_half_replaced_is_no_damaged_one(copy, jetson):
    """Another process renames an engine, and then its record; in between they do not belong together."""
    Classifier.load(copy).close()
    (file,) = (copy / "engines").glob("vision.*.plan")
    whole = file.read_bytes()
    locked, waiting, told = threading.Event(), threading.Event(), []

    def replace():
        with EngineCache(copy / "engines").lock(print):
            file.write_bytes(whole + b"another")
            locked.set()
            waiting.wait()
            file.write_bytes(whole)

    other = threading.Thread(target=replace, daemon=True)
    other.start()
    locked.wait()
    for engine in open_engines(Bundle.open(copy), progress=lambda line: told.append(line) or waiting.set()):
        engine.close()
    other.join()
    assert told == [f"another process builds engines in {copy}/engines: waiting for it"]
    assert jetson.builds == 2


# What is chosen, and why.


# attri-export


def test_export_builds_once_and_prints_where(copy, jetson):
    first, second = run(attri_export, copy, "--trt"), run(attri_export, copy, "--trt")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert first.stdout == f"engines {copy}/engines  TensorRT 10.3.0 on Orin (compute capability 8.7, {system()})\n"
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert jetson.builds == 2
    assert run(attri_export, copy, "--trt", "--max-batch", 8, "--max-labels", 500, "--workspace", 64).exit_code == 0
    assert jetson.builds == 4
    assert run(attri_export, copy, "--trt", "--rebuild-engines").exit_code == 0
    assert jetson.builds == 6
    Classifier.load(copy).close()  # takes the newest and builds none
    assert jetson.builds == 6


def test_export_without_tensorrt_keeps_the_bundle_and_says_what_to_do(copy, bare):
    result = run(attri_export, copy, "--trt")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: no engines can be built here: tensorrt is not installed: pip install 'attri[trt]'; the bundle {copy}"
        " is finished and stays: copy it to the device and run there: attri-export bundle --trt\n"
    )
    Bundle.open(copy)


def test_export_needs_neither_torch_nor_onnx_for_that(copy):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxruntime', 'open_clip', 'tensorrt']))\n"
        "from attri.export.cli import main; main(prog_name='attri-export')"
    )
    done = subprocess.run([sys.executable, "-c", code, copy, "--trt"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no engines can be built here: tensorrt is not installed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trt", "--dla"], "--dla: a DLA takes convolutions of fixed shapes"),
        (["--trt", "--fp16"], "leave out --fp16"),
        (["--trt", "--labels", "labels.txt"], "leave out --labels"),
        ([], "is a bundle already: add --trt"),
        (
            ["--rebuild-engines", "--max-batch", "4"],
            "--rebuild-engines and --max-batch without --trt",
        ),
        (["--trt", "--max-labels", "4"], "--max-labels"),
        (["--trt", "--engine-dir", "elsewhere", "--hardware-compatible"], "leave out --engine-dir"),
    ],
    ids=str,
)
def test_wrong_usage(copy, jetson, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(attri_export, copy, *options)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert jetson.builds == 0
