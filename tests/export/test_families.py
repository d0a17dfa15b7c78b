"""Every family of image towers becomes a graph that agrees with the model, in half precision and at the lowest opset.

That is the hardest case: products are half, norms, softmax and retrieval are not, batch norms are folded, and operators
that opset 18 changed are written as before. tests/export/test_onnx.py has the other precision and opset.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from support.models import small_tower

from attri.calibration import qdq
from attri.calibration.activation_ranges import measure_ranges
from attri.export.graph.precision import half_shares
from attri.export.graph.trace import trace_vision
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.gates import Gates
from attri.export.quantize import Calibration
from attri.runtime import Classifier
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import UsageError
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

LABELS = ["bird", "red apple", "a very small wooden house"]
# One of each: rotary positions and attention pooling, convolutions first, batch norms, relative positions, an MLP as
# projection, ResNet, windows, branches that become one convolution.
NAMES = [
    "PE-Core-T-16-384",
    "EVA02-B-16",
    "ViTamin-S",
    pytest.param("MobileCLIP-B", marks=pytest.mark.slow),  # its convolutions are ViTamin's, its norms ResNet's
    "vit_relpos_medium_patch16_cls_224",
    "convnext_tiny_d",
    "RN50",
    "swin_base_patch4_window7_224",
    "MobileCLIP2-S3",
]


@pytest.fixture
def model(request):
    backbone = small_tower(request.param)
    torch.manual_seed(0)  # after it, which draws numbers only when it is made
    model = AttriPrompt(backbone, PromptConfig(pool_size=8)).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
    return model


@pytest.mark.parametrize("model", NAMES, indirect=True)
def test_half_precision_at_opset_17_holds_the_gates(model, make_pixels):
    pixels = make_pixels(model.backbone.preprocess(), 4)
    proto = trace_vision(model, "fp16", 17)
    half_shares(proto, "vision.onnx", "image_features")  # raises where a product is not half, or one of retrieval is
    norms = {node.output[0] for node in proto.graph.node if node.op_type in ("LayerNormalization", "Softmax")}
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert norms or model.backbone.name in ("RN50", "MobileCLIP2-S3")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    keys = model.pool.keys_of_blocks().transpose(1, 2).detach().contiguous().numpy()
    features, retrieved, _ = session.run(None, {"pixels": pixels, "keys": keys})
    with torch.no_grad():
        expected, centres = model.encode_image(torch.from_numpy(pixels))
    gates = Gates.of("fp16")
    assert (features * expected.numpy()).sum(-1).min() > gates.cosine
    assert (retrieved == model.pool.retrieve(centres).numpy()).mean() >= gates.retrieved
    alone = session.run(None, {"pixels": pixels[2:3], "keys": keys})
    assert np.abs(alone[0] - features[2:3]).max() < 2e-3  # of the batch: half rounds to a thousandth


# Slow ones add a graph to kinds of layers that the others have.
# Rotary positions and norms inside of attention and MLP, convolutions first, relative positions, windows; plain blocks
# and SigLIP's are in tests/export/test_quantize.py and test_bidirectional.py.
@pytest.mark.parametrize(
    "model",
    [
        "EVA02-B-16",
        pytest.param("ViTamin-S", marks=pytest.mark.slow),
        "vit_relpos_medium_patch16_cls_224",
        pytest.param("swin_base_patch4_window7_224", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_int8_holds_the_gates_with_every_layer_in_both_flavours(model, traced, make_pixels, tmp_path):
    proto = traced(trace_vision)(model, "fp32", 18)
    qdq.fold_weights(proto)
    file = tmp_path / "vision.onnx"
    file.write_bytes(proto.SerializeToString())
    pixels = make_pixels(model.backbone.preprocess(), 16)
    keys = model.pool.keys_of_blocks().transpose(1, 2).detach().contiguous().numpy()
    feeds = [{"pixels": pixels[start : start + 4], "keys": keys} for start in range(0, 16, 4)]
    found = qdq.layers(proto.graph, "image_features")
    assert {"patches", "block 0", "block 1"} <= found.keys()
    ranges = measure_ranges(file, qdq.activations(proto.graph, found), feeds[:2], "minmax", tmp_path)
    reference = [OrtEngine(file, "cpu").run(feed) for feed in feeds[2:]]
    gates = Gates.of("int8")
    for flavour in (qdq.U8S8, qdq.S8S8):
        quantized = qdq.quantize(proto, qdq.of_flavour(proto.graph, found, flavour), ranges, flavour)
        file.with_name("int8.onnx").write_bytes(quantized.SerializeToString())
        engine = OrtEngine(file.with_name("int8.onnx"), "cpu", integers=flavour.integers)
        outputs = [engine.run(feed) for feed in feeds[2:]]
        cosines = [(a[0] * b[0]).sum(-1) for a, b in zip(reference, outputs, strict=True)]
        assert np.min(cosines) > gates.cosine
        # Of 8 images' few entries of random keys, more may be near ties than the gate lets pass of many.
        assert np.mean([a[1] == b[1] for a, b in zip(reference, outputs, strict=True)]) > gates.retrieved - 0.1


@pytest.mark.parametrize("model", ["convnext_tiny_d", "RN50", "MobileCLIP-S1"], indirect=True)
def test_int8_of_convolutions_is_refused_first(model, image_files, tmp_path):
    options = ExportOptions("int8", calibration=Calibration(image_files[0].parent))
    with pytest.raises(UsageError, match=f"the image tower of {model.backbone.name} is made of convolutions: use fp16"):
        export_bundle(model, tmp_path / "bundle", LABELS, image_files[10:14], options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["PE-Core-T-16-384"], indirect=True)
def test_a_whole_bundle_reaches_the_runtime(model, image_files, tmp_path, monkeypatch):
    """Squashed and bilinear, mean and deviation of 0.5, 32 tokens, attention pooling: what CLIP's own ViT is not."""
    own = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash", "interpolation": "bilinear"}
    monkeypatch.setattr(model.backbone.clip.visual, "preprocess_cfg", own, raising=False)
    report = export_bundle(model, tmp_path / "bundle", LABELS, image_files[:4])
    assert report.missed is None
    classifier = Classifier.load(tmp_path / "bundle", device="cpu")
    image = classifier.bundle.manifest.image
    assert (image["resize"], image["interpolation"], image["mean"]) == ("squash", "bilinear", [0.5] * 3)
    assert classifier.bundle.manifest.text["context_length"] == 32
    assert classifier.bundle.manifest.retrieval["sources"] == [1, 2, 3, 3]
    pixels = torch.from_numpy(model.backbone.preprocess()(image_files[5])[None])
    words = encode_labels(Tokenizer(), LABELS, "a photo of a {}.", 32)
    with torch.no_grad():
        expected = model(pixels, words).softmax(-1)[0].numpy()
    # float32 on both sides: differences of 1e-6 in cosines, times a scale of 14.
    assert np.abs(classifier(image_files[5]).probabilities - expected).max() < 1e-4
