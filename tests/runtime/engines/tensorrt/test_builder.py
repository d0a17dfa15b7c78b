"""What the builder asks of each generation of TensorRT, and what it makes of the answers."""

from __future__ import annotations

import enum
import signal

import pytest
from support.tensorrt import graphs
from support.tensorrt.standin import bindings

from attri.runtime.engines.tensorrt.builder import BuildOptions, build
from attri.runtime.engines.tensorrt.cuda import Cuda
from attri.runtime.engines.tensorrt.engine import TrtEngine
from attri.runtime.engines.tensorrt.inspection import type_shares
from attri.runtime.errors import EngineError, UsageError


@pytest.fixture
def made(monkeypatch, request):
    """made(trt): the networks and configs that builders of that module make."""

    def watch(trt):
        found = {"networks": [], "configs": []}
        network, config = trt.Builder.create_network, trt.Builder.create_builder_config

        def create_network(self, flags=0):
            found["networks"].append(network(self, flags))
            return found["networks"][-1]

        def create_config(self):
            found["configs"].append(config(self))
            return found["configs"][-1]

        monkeypatch.setattr(trt.Builder, "create_network", create_network)
        monkeypatch.setattr(trt.Builder, "create_builder_config", create_config)
        return found

    return watch


def make(trt, graph, precision="fp32", options=None, ranges=graphs.RANGES, **more):
    return build(
        trt, graph, graphs.signature(graph), precision, options or BuildOptions(), ranges, workspace=123456, **more
    )


def shares(trt, cudart, graph, precision):
    engine = TrtEngine(trt, Cuda(cudart), make(trt, graph, precision).serialized, graphs.signature(graph))
    found = type_shares(engine.inspect())
    engine.close()
    return found


def test_float32_is_float32_and_not_tf32(trt, tmp_path, made, cudart):
    found = made(trt)
    graph = graphs.write(tmp_path / "small.onnx")
    make(trt, graph)
    (config,) = found["configs"]
    assert "TF32" not in config.fake_flags
    assert config.fake_limits == {"WORKSPACE": 123456}
    assert shares(trt, cudart, graph, "fp32") == {"half": 0, "int8": 0, "float32": 1}


def test_half_is_what_the_graph_says(trt, tmp_path, made, cudart):
    found = made(trt)
    graph = graphs.write(tmp_path / "small.onnx", half=True)
    make(trt, graph, "fp16")
    (network,), (config,) = found["networks"], found["configs"]
    if trt.__version__ == "8.6.1":
        assert {"FP16", "OBEY_PRECISION_CONSTRAINTS"} <= config.fake_flags
        bound = {layer.name: getattr(layer.precision, "name", None) for layer in network.fake_layers}
        halves = dict.fromkeys(("product", "gather", "twice"), "HALF")
        # What ends in int32 cannot be bound; casts are what they are.
        assert bound == {"narrow": None, **halves, "widen": None, "last": "FLOAT", "argmax": None, "to_int32": None}
    else:
        assert network.fake_typed
        assert not {"FP16", "INT8"} & config.fake_flags
    # 4 of the 6 floating-point tensors of the graph are half
    assert shares(trt, cudart, graph, "fp16") == {
        "half": pytest.approx(4 / 6),
        "int8": 0,
        "float32": pytest.approx(2 / 6),
    }


def test_int8_is_a_flag_only_where_there_is_one(trt, tmp_path, made):
    found = made(trt)
    make(trt, graphs.write(tmp_path / "small.onnx"), "int8")
    assert ("INT8" in found["configs"][0].fake_flags) == (trt.__version__ == "8.6.1")


def test_a_rejected_node_is_named(trt, tmp_path):
    graph = graphs.write(tmp_path / "small.onnx", operator="NonZero")
    wanted = r"does not take small.onnx: node 5( last \(NonZero\))?: No importer registered for op: NonZero"
    with pytest.raises(EngineError, match=wanted):
        make(trt, graph)


@pytest.mark.parametrize(
    ("broken", "message"),
    [("Builder", "does not start"), ("build", "cannot build small.onnx: Error Code 10: Internal Error")],
)
def test_a_failed_build_says_why(trt, tmp_path, broken, message):
    trt.broken = broken
    with pytest.raises(EngineError, match=f"TensorRT {trt.__version__} {message}") as error:
        make(trt, graphs.write(tmp_path / "small.onnx"))
    assert ("engine != nullptr" in str(error.value)) == (broken == "build" and trt.__version__ == "8.6.1")


def test_an_unknown_dimension_is_named(newest, tmp_path):
    with pytest.raises(EngineError, match=r"a dimension that this attri does not know \(C\)"):
        make(newest, graphs.write(tmp_path / "small.onnx"), ranges={"B": (1, 1, 1)})


def test_progress_is_told_and_who_does_not_listen_ends_a_build(trt, tmp_path, monkeypatch):
    graph, lines = graphs.write(tmp_path / "small.onnx"), []
    monkeypatch.setattr("attri.runtime.engines.tensorrt.builder.TICK", -1.0)
    make(trt, graph, progress=lines.append)
    title = f"building small.onnx for TensorRT {trt.__version__}"
    if trt.__version__ == "8.6.1":
        assert lines == [f"{title}; it tells no progress, and Ctrl-C waits for its end"]
        return
    assert lines == [title, *(f"{title}: Building engine, {step} of 2" for step in (1, 2))]

    def gone(line):
        if "1 of 2" in line:
            raise BrokenPipeError("nobody reads stderr")

    with pytest.raises(BrokenPipeError):
        make(trt, graph, progress=gone)


def test_ctrl_c_is_raised_once_tensorrt_has_returned(trt, tmp_path, monkeypatch):
    graph, build_network, returned = graphs.write(tmp_path / "small.onnx"), trt.Builder.build_serialized_network, []

    def pressed(self, network, config):
        signal.raise_signal(signal.SIGINT)
        returned.append(build_network(self, network, config))
        return returned[0]

    monkeypatch.setattr(trt.Builder, "build_serialized_network", pressed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make(trt, graph)
    assert [serialized is None for serialized in returned] == [trt.__version__ != "8.6.1"]  # 8.6 cannot be told to stop
    assert signal.getsignal(signal.SIGINT) is before


def test_portable_engines_run_elsewhere(trt, tmp_path, cudart):
    graph = graphs.write(tmp_path / "small.onnx")
    options = BuildOptions(hardware_compatible=True, version_compatible=True)
    serialized = make(trt, graph, options=options).serialized
    other = bindings("10.16.1.11", cudart)
    other.gpu = ("Thor", "11.0")
    with pytest.raises(EngineError, match="host code"):
        TrtEngine(other, Cuda(cudart), serialized, graphs.signature(graph))
    TrtEngine(other, Cuda(cudart), serialized, graphs.signature(graph), host_code=True).close()


@pytest.mark.parametrize(
    ("holder", "field"),
    [("HardwareCompatibilityLevel", "hardware_compatible"), ("BuilderFlag", "version_compatible")],
)
def test_build_refuses_portability_that_tensorrt_lacks(newest, tmp_path, monkeypatch, holder, field):
    members = {k: int(v) for k, v in getattr(newest, holder).__members__.items()}
    rest = {name: value for name, value in members.items() if name not in ("AMPERE_PLUS", "VERSION_COMPATIBLE")}
    monkeypatch.setattr(newest, holder, enum.IntEnum(holder, rest))
    with pytest.raises(UsageError, match=f"`{field}`: TensorRT 10.3.0 has no such engines"):
        make(newest, graphs.write(tmp_path / "small.onnx"), options=BuildOptions(**{field: True}))


def test_the_timing_cache_is_used_again_but_not_of_another_gpu(trt, tmp_path):
    graph = graphs.write(tmp_path / "small.onnx")
    first = make(trt, graph).timing_cache
    assert first.endswith(b"|1")
    second = make(trt, graph, timing_cache=first).timing_cache
    assert second.endswith(b"|2")
    trt.gpu = ("Thor", "11.0")
    assert make(trt, graph, timing_cache=second).timing_cache.endswith(b"|1")


def test_ranges_follow_the_options():
    ranges = BuildOptions(max_batch=2, max_labels=1000).ranges(77)
    counts = {"B": (1, 1, 2), "N": (1, 16, 256), "C": (1, 100, 1000)}
    assert ranges == counts | {"P": (1, 5, 77), "T": (1, 4, 77), "R": (1, 400, 8000)}
    smallest = BuildOptions(max_batch=1, max_labels=16).ranges(77)
    assert smallest["C"] == (1, 16, 16)
    assert smallest["R"] == (1, 64, 128)  # and never fewer than one label's 77
    with pytest.raises(UsageError):
        BuildOptions(max_batch=0)
    with pytest.raises(UsageError):
        BuildOptions(max_labels=15)
