"""Calibrated ranges of an int8 base: what the manifest keeps, and prompts that leave them."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from support.int8 import GATES, LABELS
from support.manifests import edit_manifest

from attri.export.prompt import PromptOptions, export_prompt
from attri.export.ranges import check_ranges
from attri.runtime import Classifier
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.errors import FailedError, ParityError
from attri.runtime.prompt import Prompt
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.model import AttriPrompt


@pytest.fixture
def base(int8_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(int8_bundle, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(scope="module")
def pixels(pocket_model: AttriPrompt, make_pixels: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = make_pixels(pocket_model.backbone.preprocess(), 12)
    return found


def ranges_of(bundle: Path) -> dict[str, dict[str, list[float]]]:
    """Of the tensors of the text graph."""
    layers = Bundle.open(bundle).manifest.arithmetic["ranges"][TEXT]
    return {tensor: entry for tensors in layers.values() for tensor, entry in tensors.items()}


def values_seen(folder: Path, prompt: Prompt, retrieved: NDArray[np.int32], names: list[str]) -> dict[str, Any]:
    """Least and greatest value of tensors of the text graph, one set of pool entries after the other."""
    graph = onnx.load(folder / TEXT)
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, None) for each in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    bundle = Bundle.open(folder)
    tokens = encode_labels(Tokenizer(), LABELS, prompt.facts.template, bundle.manifest.text["context_length"])
    feed = {**prompt.text_inputs, **tokens.feed(bundle.token_embedding())}
    runs = [session.run(names, {"retrieved": each[None], **feed}) for each in retrieved]
    return {
        name: (min(float(run[i].min()) for run in runs), max(float(run[i].max()) for run in runs))
        for i, name in enumerate(names)
    }


def test_the_manifest_keeps_what_the_calibration_saw(int8_bundle: Path, bundle: Path) -> None:
    """The same as a slow pass of the float32 graph over the calibration images."""
    kept = ranges_of(int8_bundle)
    opened = Bundle.open(int8_bundle)
    assert set(opened.manifest.arithmetic["ranges"]) == {TEXT, VISION}
    assert len(kept) >= 3 * opened.manifest.retrieval["depth"]
    photos = sorted((int8_bundle.parent / "photos").iterdir())
    with Classifier.load(bundle, device="cpu", threads=1) as classifier:
        retrieved = np.stack([each.retrieved for each in classifier(photos)])
        seen = values_seen(bundle, classifier.prompt, retrieved, list(kept))
    for tensor, entry in kept.items():
        # float16 embeddings of int8 bundles are written after the calibration: nothing but rounding differs.
        np.testing.assert_allclose(entry["range"], seen[tensor], rtol=1e-3, atol=1e-4)
        assert entry["range"] == entry["seen"]  # minmax does not clip


def with_values(prompt: Prompt, factor: float) -> Prompt:
    """The same prompt whose values of attention are so many times as large."""
    table = prompt.tensors["prompt_table"].copy()
    table[..., table.shape[-1] // 2 :] *= factor
    return Prompt.of(prompt.facts, {**prompt.tensors, "prompt_table": table})


def test_a_prompt_that_leaves_the_ranges_is_refused_with_the_figure(
    int8_bundle: Path, pixels: NDArray[np.float32]
) -> None:
    opened = Bundle.open(int8_bundle)
    check_ranges(opened, pixels)  # its own stays
    check_ranges(dataclasses.replace(opened, prompt=with_values(opened.prompt, 1.1)), pixels)
    large = with_values(opened.prompt, 10)
    with pytest.raises(ParityError) as raised:
        check_ranges(dataclasses.replace(opened, prompt=large), pixels)
    found = re.fullmatch(
        rf"the prompt leaves the calibrated ranges of {int8_bundle}: (\S+) in block \d of text.onnx reaches (\S+),"
        r" and int8 holds (\S+) to (\S+): export a bundle of its own, with --int8",
        str(raised.value),
    )
    assert found is not None, raised.value
    tensor, value, low, high = found[1], *map(float, found.groups()[1:])
    kept = ranges_of(int8_bundle)
    np.testing.assert_allclose([low, high], kept[tensor]["range"], rtol=1e-3)
    with Classifier.load(int8_bundle, prompt=large, device="cpu", threads=1) as classifier:
        _, retrieved = classifier.encode_image(pixels)
    seen = values_seen(int8_bundle, large, np.unique(retrieved, axis=0), list(kept))
    assert any(np.isclose(value, each, rtol=1e-3) for each in seen[tensor])
    excess = {
        name: max(kept[name]["range"][0] - least, most - kept[name]["range"][1]) / np.ptp(kept[name]["range"])
        for name, (least, most) in seen.items()
    }
    assert excess[tensor] == pytest.approx(max(excess.values()), rel=1e-3)  # the worst is named


def test_an_exported_prompt_stays_or_is_refused(
    pocket_model: AttriPrompt, base: Path, image_files: list[Path], tmp_path: Path
) -> None:
    """Ranges of the base that are too narrow are those of a prompt that leaves them."""
    made, options = tmp_path / "a.attri", PromptOptions(gates=GATES)
    export_prompt(pocket_model, Bundle.open(base), made, LABELS, image_files[16:40], options)
    assert Prompt.read(made).facts.base == Bundle.open(base).manifest.base
    made.unlink()

    def narrow(raw: dict[str, Any]) -> None:
        tensors = raw["arithmetic"]["ranges"][TEXT]["block 1"]
        entry = tensors[sorted(tensors)[0]]
        entry["range"] = entry["seen"] = [value / 3 for value in entry["range"]]

    edit_manifest(base, narrow)
    with pytest.raises(ParityError, match=r"leaves the calibrated ranges of .* in block 1 of text.onnx reaches"):
        export_prompt(pocket_model, Bundle.open(base), made, LABELS, image_files[16:40], options)
    assert not made.exists()


def test_a_base_without_ranges_is_told(base: Path, pixels: NDArray[np.float32]) -> None:
    edit_manifest(base, lambda raw: raw["arithmetic"].pop("ranges"))
    with pytest.raises(FailedError, match="has no calibrated ranges in its manifest: export it again"):
        check_ranges(Bundle.open(base), pixels)
