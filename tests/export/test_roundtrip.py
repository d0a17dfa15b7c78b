"""From weights on disk through training, saving, loading and exporting to the runtime: nothing is lost on the way.

The model is tiny, one block a tower, and unusual on purpose: QuickGELU, and a logit scale that is not 100.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from support.literal import literal_centres, literal_image, literal_retrieve, literal_text

from attri.export.bundle.writer import weights_name
from attri.export.cli import main
from attri.runtime import Classifier
from attri.runtime.preprocess import Preprocess
from attri.runtime.prompt import Prompt
from attri.train import pocket
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit
from attri.train.model.backbone import load_backbone
from attri.train.training.checkpoint import load_run

NAME, SCALE = "tiny-quickgelu", 12.5
TOWER = {"width": 64, "layers": 1}
CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": TOWER | {"image_size": 32, "head_width": 32, "patch_size": 8},
    "text_cfg": TOWER | {"context_length": 24, "vocab_size": 49408, "heads": 2},
}
OPTIONS = ["--parity-images", "4", "--opset", "17"]
PROMPT = PromptConfig(clusters=2, lloyd_steps=1, pool_size=6)
EXPORT = """
import sys, open_clip
open_clip.add_model_config(sys.argv[1])
from attri.export.cli import main
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The model, known to open_clip by its name."""
    path = tmp_path_factory.mktemp("config") / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return path


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finished run on weights from a file."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    clip = open_clip.create_model(NAME)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if "mlp" in name:
                parameter.mul_(6)  # so that the activation matters
        clip.logit_scale.fill_(math.log(SCALE))
    torch.save(clip.state_dict(), folder / "weights.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("attri.train.fitting.draw_figures", lambda *_: [])  # which takes longer than the training
        backbone = load_backbone(NAME, str(folder / "weights.pt"))
        train = TrainConfig(epochs=2, augmentations=1, shots=1)
        return fit(read_data(pocket.IMAGES, shots=1), backbone, PROMPT, train, folder / "run", latest=False)


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    with pytest.raises(SystemExit) as done:
        main([str(run), "--output", str(path), *OPTIONS])
    assert done.value.code == 0
    return path


def literal_probabilities(clip, run, bundle, image):
    """Probabilities of open_clip's own blocks with the run's tensors, the whole sentences, and the temperature."""
    pool, tokenizer = run.tensors, open_clip.SimpleTokenizer(context_length=24)
    facts = bundle.prompt.facts
    pixels = torch.from_numpy(Preprocess(**bundle.manifest.image)(image))[None]
    with torch.no_grad():
        feature, tokens = literal_image(clip, pixels)
        centres = literal_centres(clip, tokens[0], PROMPT.clusters, PROMPT.lloyd_steps, PROMPT.kmeans_init)
        retrieved = torch.tensor([literal_retrieve(centres, pool["keys"][0], PROMPT.topk)])
        ids = tokenizer([run.train.template.format(label) for label in facts.labels])
        text = literal_text(clip, pool["tokens"], pool["static"], retrieved, ids)
        return (SCALE / facts.temperature * text @ feature).softmax(0).numpy()


def test_quickgelu_and_a_scale_of_its_own_survive_save_load_and_export(run, bundle, image_files):
    trained = load_run(run)
    classifier = Classifier.load(bundle, device="cpu")
    manifest = classifier.bundle.manifest
    clip = open_clip.create_model(NAME, pretrained=trained.backbone["pretrained"]).eval()
    other = open_clip.create_model(NAME, pretrained=trained.backbone["pretrained"], force_quick_gelu=False).eval()
    for block in (*other.visual.transformer.resblocks, *other.transformer.resblocks):
        block.mlp.gelu = torch.nn.GELU()
    apart = []
    for image in image_files[:3]:
        ours = classifier(image).probabilities
        assert np.abs(ours - literal_probabilities(clip, trained, classifier.bundle, image)).max() < 1e-5
        apart.append(np.abs(ours - literal_probabilities(other, trained, classifier.bundle, image)).max())
    assert max(apart) > 3e-4  # another activation would show: 30 times the tolerance
    assert manifest.logit_scale == pytest.approx(SCALE)


def test_weights_from_a_file_go_by_their_name_and_not_by_their_path(run, bundle):
    assert load_run(run).backbone["pretrained"] == str(run.parent / "weights.pt")  # where they are read from
    assert json.loads((bundle / "manifest.json").read_text())["model"]["pretrained"] == "weights.pt"
    for file in bundle.iterdir():
        assert str(run.parent).encode() not in file.read_bytes(), file.name
    assert [weights_name(tag) for tag in ("openai", "/home/me/openai", "w/a.pt")] == ["openai", "./openai", "a.pt"]


def test_another_process_writes_the_same_bytes(config, run, bundle, tmp_path):
    """A real export: what hangs on the order of a set or on the place of the folder would differ, and so would the
    traces that tests share, which are of opset 18 and converted.
    """
    arguments = [str(config), str(run), "--output", str(tmp_path / "again"), *OPTIONS]
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", EXPORT, *arguments], env=environment, check=True, capture_output=True)
    names = sorted(file.name for file in bundle.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir())
    assert {"vision.onnx", "text.onnx", "parity.json", "report.html"} < set(names)
    for name in set(names) - {"manifest.json", "prompt.attri"}:
        assert (bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    first, second = (json.loads((path / "manifest.json").read_text()) for path in (bundle, tmp_path / "again"))
    for manifest in (first, second):
        del manifest["created"], manifest["sha256"]  # the second covers the first
    assert first == second
    first, second = (Prompt.read(path / "prompt.attri") for path in (bundle, tmp_path / "again"))
    assert dataclasses.replace(first.facts, created="") == dataclasses.replace(second.facts, created="")
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
