"""Every graph that export can write, parsed, typed and built by a real TensorRT.

TensorRT-RTX builds engines on a machine without a GPU; its parser and API are about those of TensorRT 11. The engines
are for a desktop GPU and cannot be run here: what they compute is not shown by this. Full-size models are marked slow:
pytest -m slow tests/runtime/engines/tensorrt/test_rtx.py
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import onnx
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from support.models import FAMILIES, small_tower

from attri.calibration import qdq
from attri.calibration.qdq import FEATURES, S8S8
from attri.export.graph.signature import signature_of
from attri.export.graph.trace import trace_label, trace_text, trace_vision
from attri.runtime.bundle import LABEL, TEXT, VISION
from attri.runtime.engines.tensorrt.builder import BuildOptions, build
from attri.runtime.errors import EngineError
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import freeze

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
TRACES = {VISION: trace_vision, TEXT: trace_text, LABEL: trace_label}


def for_a_gpu(config):
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx.ComputeCapability.SM86, 0)


make = functools.partial(build, rtx, workspace=1 << 30, timing_cache=None, adjust=for_a_gpu)


def graph(traced, model, name, precision, opset):
    """As export writes it; the tracer's part is shared."""
    proto = traced(TRACES[name])(model, precision, opset)
    if precision == "int8":
        qdq.fold_weights(proto)
        found = qdq.of_flavour(proto.graph, qdq.layers(proto.graph, FEATURES[name]), S8S8)
        # Which ranges were measured changes scales, and no node or type.
        ranges = dict.fromkeys(qdq.activations(proto.graph, found), (-8.0, 8.0))
        proto = qdq.quantize(proto, found, ranges, S8S8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def assert_builds(traced, model, folder, name, precision, opset):
    path, lines, proto = folder / name, [], graph(traced, model, name, precision, opset)
    path.write_bytes(proto.SerializeToString())
    ranges = BuildOptions().ranges(model.backbone.context_length)
    built = make(path, signature_of(proto), precision, BuildOptions(), ranges, progress=lines.append)
    assert len(built.serialized) > 0.4 * path.stat().st_size
    assert lines[0] == f"building {name} for TensorRT {rtx.__version__}"
    print(f"{name} {precision} opset {opset}: {len(built.serialized) / 2**20:.1f} MB in {built.seconds:.0f} s")


# Opset 17 is the same graph with another Split, and vision graphs of all families are built at it: pytest -m slow.
@pytest.mark.parametrize(
    ("precision", "opset"), [pytest.param("fp32", 17, marks=pytest.mark.slow), ("fp32", 18), ("fp16", 18), ("int8", 18)]
)
@pytest.mark.parametrize("name", [VISION, TEXT])
def test_it_builds(traced, pocket_model, tmp_path, name, precision, opset):
    assert_builds(traced, pocket_model, tmp_path, name, precision, opset)


@pytest.mark.parametrize("name", [LABEL, TEXT])
def test_it_builds_text_that_is_not_causal(traced, siglip_model, tmp_path, name):
    assert_builds(traced, siglip_model, tmp_path, name, "fp32", 18)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_builds_every_family_of_image_towers(traced, tmp_path, family):
    torch.manual_seed(0)
    model = AttriPrompt(small_tower(family), PromptConfig(pool_size=8)).eval()
    assert_builds(traced, model, tmp_path, VISION, "fp16", 17)


@pytest.fixture(scope="module", params=["ViT-B-32", "ViT-B-16"])
def full_size(request):
    """The real shapes with random weights, which no graph depends on."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(request.param)
    return AttriPrompt(freeze(CLIP(**config), request.param, "random"), PromptConfig()).eval()


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", [VISION, TEXT])
def test_full_size_builds(traced, full_size, tmp_path, name, precision, opset):
    assert_builds(traced, full_size, tmp_path, name, precision, opset)


def test_a_node_that_tensorrt_does_not_know_is_named(traced, pocket_model, tmp_path):
    proto = graph(traced, pocket_model, TEXT, "fp32", 18)
    index, node = next((i, node) for i, node in enumerate(proto.graph.node) if node.op_type == "Softmax")
    node.op_type, node.domain = "QuickGelu", "com.microsoft"
    del node.attribute[:]
    path = tmp_path / TEXT
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(
        EngineError, match=rf"does not take text.onnx: node {index} {re.escape(node.name)} \(QuickGelu\): "
    ):
        make(path, signature_of(proto), "fp32", BuildOptions(), BuildOptions().ranges(77))


# Ctrl-C comes while TensorRT calls back, to tell of a step or to log; what such a call raises, TensorRT swallows.
PRESSED = """
import logging, os, signal, sys
from pathlib import Path
import onnx
import tensorrt_rtx as rtx
from attri.export.graph.signature import signature_of
from attri.runtime.engines.tensorrt import builder
from attri.runtime.engines.tensorrt.builder import BuildOptions, build

builder.TICK, callback, told = -1.0, sys.argv[2], []

def press(where):
    if where == callback and told:
        os.kill(os.getpid(), signal.SIGINT)
    return True

def progress(line):
    told.append(line)
    press("step")

def for_a_gpu(config):
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx.ComputeCapability.SM86, 0)

log = logging.getLogger("attri.tensorrt")
log.setLevel(logging.DEBUG)
log.addFilter(lambda record: press("log"))
options = BuildOptions()
try:
    signature = signature_of(onnx.load(sys.argv[1]))
    build(rtx, Path(sys.argv[1]), signature, "fp32", options, options.ranges(77), workspace=1 << 30, timing_cache=None,
          adjust=for_a_gpu, progress=progress)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("interrupted", *told, sep="\\n")
"""


@pytest.mark.parametrize("callback", ["step", "log"])
def test_ctrl_c_ends_a_build(traced, pocket_model, tmp_path, callback):
    path = tmp_path / VISION
    path.write_bytes(graph(traced, pocket_model, VISION, "fp32", 18).SerializeToString())
    done = subprocess.run([sys.executable, "-c", PRESSED, path, callback], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    interrupted, *told = done.stdout.splitlines()
    assert interrupted == "interrupted"
    assert len(told) < 10, "it went on"  # of hundreds of steps
