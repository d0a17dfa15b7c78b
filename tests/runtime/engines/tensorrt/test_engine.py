"""The runner's whole life against a stand-in of each generation of TensorRT; right answers are NumPy's."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from support.tensorrt import graphs
from support.tensorrt.standin import bindings

from attri.runtime.engines.tensorrt.builder import BuildOptions, build
from attri.runtime.engines.tensorrt.cuda import Cuda
from attri.runtime.engines.tensorrt.engine import TrtEngine
from attri.runtime.errors import EngineError


@pytest.fixture
def graph(tmp_path):
    return graphs.write(tmp_path / "small.onnx")


def make_engine(trt, graph, precision="fp32", options=None, **more):
    return build(
        trt,
        graph,
        graphs.signature(graph),
        precision,
        options or BuildOptions(),
        graphs.RANGES,
        workspace=1 << 20,
        **more,
    ).serialized


@pytest.fixture
def engine(trt, graph, cudart):
    engine = TrtEngine(trt, Cuda(cudart), make_engine(trt, graph), graphs.signature(graph))
    yield engine
    engine.close()


def assert_right(engine, feeds):
    for found, wanted in zip(engine.run(feeds), graphs.expected(**feeds), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-6)  # float32, a few operations


def test_answers_whatever_the_shapes(engine):
    assert engine.limits == {"B": 4, "C": 6}
    assert engine.description.startswith("TensorRT ")
    assert engine.description.endswith(" on Orin")
    for number, (batch, classes) in enumerate([(1, 3), (4, 6), (1, 1), (1, 1), (1, 1), (4, 6), (2, 2), (1, 3)]):
        assert_right(engine, graphs.inputs(number, batch, classes))


def test_repeated_shapes_become_a_cuda_graph(engine, cudart):
    used = []
    for number, batch in enumerate([2, 2, 2, 2, 1, 1, 1]):
        assert_right(engine, graphs.inputs(number, batch))
        used.append(cudart.fake_graphs())
    assert used == [0, 1, 1, 1, 0, 1, 1]  # the first run with new shapes settles TensorRT's state


@pytest.mark.parametrize(
    "how", ["refused", "cudaStreamBeginCapture", "cudaMemcpyAsync", "cudaGraphInstantiateWithFlags"]
)
def test_what_cannot_be_captured_runs_without_a_graph(engine, trt, cudart, how):
    trt.capturable = how != "refused"
    if how == "refused":
        for number in range(4):
            assert_right(engine, graphs.inputs(number))
        assert cudart.fake_graphs() == 0
        return
    assert_right(engine, graphs.inputs(0))
    cudart.fake_fail(how.encode(), 900, 0)
    assert_right(engine, graphs.inputs(1))
    assert cudart.fake_graphs() == 0


def test_outputs_are_arrays_of_their_own(engine):
    first = engine.run(graphs.inputs(0))
    kept = [output.copy() for output in first]
    engine.run(graphs.inputs(1))
    np.testing.assert_equal(first, kept)
    engine.close()
    np.testing.assert_equal(first, kept)


def test_inputs_need_not_lie_in_memory_as_they_are_read(engine):
    feeds = graphs.inputs(0, 4, 6)
    feeds["pixels"] = np.asfortranarray(feeds["pixels"])
    feeds["places"] = feeds["places"][::-2]
    assert_right(engine, feeds)


def fixed(places: list[int]) -> np.ndarray:
    """What never changes, such as a prompt: a read-only array."""
    array = np.array(places, np.int32)
    array.flags.writeable = False
    return array


def test_a_read_only_input_is_copied_to_the_device_once(engine, cudart):
    places, copies = fixed([0, 1, 3]), []
    for number in range(5):
        before = cudart.fake_uploads()
        assert_right(engine, graphs.inputs(number) | {"places": places})
        copies.append(cudart.fake_uploads() - before)
    assert copies[0] == 2
    assert copies[1:] == [1] * 4  # pixels alone, in the CUDA graph too


def test_another_read_only_input_is_taken_over(engine, cudart):
    """Also of the same shape, while a CUDA graph is in use; and one that may be written to is copied every time."""
    for number, order in enumerate([[0, 1, 3]] * 3 + [[3, 2, 1]] * 2 + [[0, 0, 0]]):
        assert_right(engine, graphs.inputs(number) | {"places": fixed(order)})
    places = np.array([1, 2, 3], np.int32)
    for number in range(4):
        places[0] = number
        assert_right(engine, graphs.inputs(number) | {"places": places})
    kept = fixed([2, 2, 1])
    for number, batch in enumerate([2, 2, 4, 4, 1, 2]):  # buffers that grow lose what they held
        assert_right(engine, graphs.inputs(number, batch) | {"places": kept})


def test_threads_take_turns(engine):
    wrong = []

    def work(seed):
        try:
            for number in range(20):
                assert_right(engine, graphs.inputs(seed * 100 + number, 1 + seed % 3, 1 + number % 4))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((5, 3), np.float32)}, r"pixels is \[5, 3\], its B must be 1 to 4 in this engine"),
        ({"pixels": np.zeros((0, 3), np.float32)}, "its B must be 1 to 4"),
        ({"pixels": np.zeros((1, 4), np.float32)}, "its 3 must be 3 to 3"),
        ({"places": np.zeros(7, np.int32)}, "its C must be 1 to 6 in this engine: give less at once"),
        ({"pixels": np.zeros(3, np.float32)}, r"pixels is \[3\], the engine reads \['B', 3\]"),
        ({"pixels": np.zeros((1, 3), np.float64)}, "pixels is float64, the engine reads float32"),
        ({"places": np.zeros(2, np.int64)}, "places is int64, the engine reads int32"),
        ({"places": None}, "the engine reads pixels, places; missing or unknown: places"),
        ({"pool": np.zeros(1)}, "missing or unknown: pool"),
    ],
    ids=str,
)
def test_wrong_inputs_are_refused_and_change_nothing(engine, change, message):
    assert_right(engine, graphs.inputs(0))
    feeds = {name: value for name, value in (graphs.inputs(1) | change).items() if value is not None}
    with pytest.raises(EngineError, match=message):
        engine.run(feeds)
    assert_right(engine, graphs.inputs(2))


def test_one_name_is_one_extent(newest, tmp_path, cudart):
    import onnx

    model = onnx.load(graphs.write(tmp_path / "small.onnx"))
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "B"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "B"
    path = tmp_path / "square.onnx"
    path.write_bytes(model.SerializeToString())
    engine = TrtEngine(newest, Cuda(cudart), make_engine(newest, path), graphs.signature(path))
    assert_right(engine, graphs.inputs(0, 3, 3))
    with pytest.raises(EngineError, match=r"places is \[2\], its B is 3 in another input"):
        engine.run(graphs.inputs(0, 3, 2))
    engine.close()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("set_input_shape", r"takes no \[2, 3\] as pixels: Error Code 3"),
        ("infer_shapes", "failed: TensorRT logged no error"),
        ("set_tensor_address", "does not take the address of pixels"),
        ("execute_async_v3", "failed: Error Code 1: Cuda Runtime"),
    ],
)
def test_a_run_that_fails_says_why_and_the_next_one_works(engine, trt, broken, message):
    trt.broken = broken
    with pytest.raises(EngineError, match=message):
        engine.run(graphs.inputs(0))
    trt.broken = ""
    for number in range(3):
        assert_right(engine, graphs.inputs(number))


def test_the_reason_is_of_the_call_that_failed(engine, trt):
    for broken, message in (("set_input_shape", "Error Code 3"), ("infer_shapes", "failed: TensorRT logged no error$")):
        trt.broken = broken
        with pytest.raises(EngineError, match=message):
            engine.run(graphs.inputs(0))


@pytest.mark.parametrize("batch", [1, 2])
def test_dimensions_of_one_extent_may_be_fixed(trt, graph, cudart, batch):
    trt.fixing = True
    ranges = {"B": (batch,) * 3, "C": (3, 3, 3)}
    for each in (ranges, graphs.RANGES, graphs.RANGES | {"B": ranges["B"]}):
        serialized = build(
            trt, graph, graphs.signature(graph), "fp32", BuildOptions(), each, workspace=1 << 20
        ).serialized
        engine = TrtEngine(trt, Cuda(cudart), serialized, graphs.signature(graph))
        assert engine.limits == {dim: most for dim, (_, _, most) in each.items()}
        assert_right(engine, graphs.inputs(0, batch, 3))
        if each is ranges:
            with pytest.raises(EngineError, match=f"its B must be {batch} to {batch}"):
                engine.run(graphs.inputs(0, batch + 1, 3))
        engine.close()


@pytest.mark.parametrize(
    ("name", "after", "message"),
    [
        ("cudaMalloc", 0, r"out of memory \(cudaErrorMemoryAllocation\)"),
        ("cudaHostAlloc", 2, "CUDA failed in cudaHostAlloc: out of memory"),
        ("cudaMemcpyAsync", 3, "CUDA failed in cudaMemcpyAsync"),
        ("cudaStreamSynchronize", 0, "CUDA failed in cudaStreamSynchronize"),
    ],
)
def test_what_cuda_cannot_do_is_told_in_its_words(engine, cudart, name, after, message):
    cudart.fake_fail(name.encode(), 2, after)
    with pytest.raises(EngineError, match=message):
        engine.run(graphs.inputs(0))
    assert_right(engine, graphs.inputs(1))


def test_a_failing_launch_of_a_graph(engine, cudart):
    for number in range(2):
        assert_right(engine, graphs.inputs(number))
    cudart.fake_fail(b"cudaGraphLaunch", 700, 0)
    with pytest.raises(EngineError, match=r"illegal memory access was encountered \(cudaErrorIllegalAddress\)"):
        engine.run(graphs.inputs(2))
    assert_right(engine, graphs.inputs(3))


def test_closed_is_closed(engine, cudart, trt):
    engine.run(graphs.inputs(0))
    engine.run(graphs.inputs(1))
    assert cudart.fake_alive(0) > 0
    engine.close()
    assert [cudart.fake_alive(0), cudart.fake_alive(1), cudart.fake_streams(), cudart.fake_graphs()] == [0, 0, 0, 0]
    assert trt.live == {"engine": 0, "context": 0}
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(graphs.inputs(0))


def test_a_run_that_hangs_does_not_keep_the_engine_from_closing(newest, graph, cudart, caplog):
    engine = TrtEngine(newest, Cuda(cudart), make_engine(newest, graph), graphs.signature(graph))
    assert_right(engine, graphs.inputs(0))
    cudart.fake_hang(1)
    run = threading.Thread(target=assert_right, args=(engine, graphs.inputs(1)), daemon=True)
    run.start()
    while not cudart.fake_waiting():
        time.sleep(0.01)
    engine.close()
    assert caplog.messages == ["a run on the GPU has not ended: its memory is given back when it does"]
    assert run.is_alive()
    engine.close()
    cudart.fake_hang(0)
    run.join()
    assert [cudart.fake_alive(0), cudart.fake_alive(1), cudart.fake_streams(), cudart.fake_graphs()] == [0, 0, 0, 0]
    with pytest.raises(EngineError, match="closed"):
        engine.run(graphs.inputs(0))


def test_dropped_is_closed(trt, graph, cudart):
    engine = TrtEngine(trt, Cuda(cudart), make_engine(trt, graph), graphs.signature(graph))
    engine.run(graphs.inputs(0))
    del engine
    assert cudart.fake_alive(0) == 0


@pytest.mark.parametrize(
    ("broken", "message"),
    [("Runtime", "does not start"), ("context", "cannot start the engine: Error Code 2: OutOfMemory")],
)
def test_an_engine_that_does_not_start_leaves_nothing(trt, graph, cudart, broken, message):
    serialized = make_engine(trt, graph)
    trt.broken = broken
    with pytest.raises(EngineError, match=message):
        TrtEngine(trt, Cuda(cudart), serialized, graphs.signature(graph))


def test_a_stream_that_does_not_start_leaves_nothing(newest, graph, cudart):
    serialized = make_engine(newest, graph)
    cudart.fake_fail(b"cudaStreamCreateWithFlags", 2, 0)
    with pytest.raises(EngineError, match="cudaStreamCreateWithFlags"):
        TrtEngine(newest, Cuda(cudart), serialized, graphs.signature(graph))


def test_engines_of_other_versions_gpus_and_graphs_are_refused(newest, graph, cudart, tmp_path):
    cuda, signature, serialized = Cuda(cudart), graphs.signature(graph), make_engine(newest, graph)
    with pytest.raises(EngineError, match=r"TensorRT 8.6.1 does not take the engine: expecting library version 8.6.1"):
        TrtEngine(bindings("8.6.1", cudart), cuda, serialized, signature)
    with pytest.raises(EngineError, match="Version tag mismatch"):
        TrtEngine(newest, cuda, serialized[4:], signature)
    newest.gpu = ("Thor", "11.0")
    with pytest.raises(EngineError, match="incompatible device"):
        TrtEngine(newest, cuda, serialized, signature)
    newest.gpu = ("Orin", "8.7")
    other = graphs.write(tmp_path / "other.onnx")
    data = other.read_bytes().replace(b"best", b"bast")
    other.write_bytes(data)
    with pytest.raises(EngineError, match="the engine is of another graph, bast differs: build it again"):
        TrtEngine(newest, cuda, serialized, graphs.signature(other))
