"""Providers of ONNX Runtime beside its CPU: what computes something else is refused, what agrees is not asked again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from attri.runtime import Classifier
from attri.runtime.bundle import TEXT, VISION
from attri.runtime.engines import verified
from attri.runtime.engines.onnxruntime import DEVICES, PROVIDERS, OrtEngine
from attri.runtime.engines.select import EngineOptions, choose_tensorrt
from attri.runtime.errors import EngineError, ParityError, UsageError

Change = Callable[[list[np.ndarray]], list[np.ndarray]]


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """provider(change): a provider that is called OpenVINO's and changes what the CPU computes; runs by their graph."""

    def install(change: Change = lambda outputs: outputs) -> list[str]:
        runs: list[str] = []

        class Session(onnxruntime.InferenceSession):
            def __init__(self, path: str, options: Any, providers: list[Any], enable_fallback: int) -> None:
                self.asked = [each if isinstance(each, str) else each[0] for each in providers]
                super().__init__(path, options, ["CPUExecutionProvider"], enable_fallback=enable_fallback)

            def get_providers(self) -> list[str]:
                return self.asked

            def run(self, names: Any, inputs: Any, *rest: Any) -> Any:
                outputs = super().run(names, inputs, *rest)
                if self.asked == [PROVIDERS["openvino"]]:
                    runs.append(VISION if "pixels" in inputs else TEXT)
                    outputs = change(outputs)
                return outputs

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*PROVIDERS.values()])
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        return runs

    return install


def load(bundle: Path, device: Any = "openvino") -> Classifier:
    return Classifier.load(bundle, device=device, threads=1)


def nan(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """All of the features, as an iGPU has computed them (scrypted issue 1998)."""
    return [np.full_like(outputs[0], np.nan), *outputs[1:]]


def noisy(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Features that are finite, of unit length and somewhere else."""
    noise = np.random.default_rng(0).normal(0, 0.02, outputs[0].shape)
    changed = outputs[0] + noise.astype(np.float32)
    return [changed / np.linalg.norm(changed, axis=-1, keepdims=True), *outputs[1:]]


@pytest.mark.parametrize("change", [nan, noisy])
def test_a_provider_that_computes_something_else_is_refused_each_time(
    bundle: Path, provider: Callable[..., list[str]], change: Change
) -> None:
    runs = provider(change)
    for _ in range(2):
        with pytest.raises(ParityError, match=r"on openvino does not agree with the PyTorch model: image features"):
            load(bundle)
    assert runs.count(VISION) == 2


def test_one_that_agrees_is_held_against_the_model_once(
    bundle: Path, provider: Callable[..., list[str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    runs = provider()
    load(bundle).close()
    once = list(runs)
    assert {VISION, TEXT} == {*once}
    told = [message for message in caplog.messages if "agrees with the PyTorch model" in message]
    assert len(told) == 2
    runs.clear()
    load(bundle).close()
    assert len(runs) < len(once)  # the image that every load of a small bundle runs is left
    assert len([message for message in caplog.messages if "agrees with" in message]) == 2
    driver = bundle / "manifest.json"  # any other text
    monkeypatch.setattr(verified, "DRIVER", driver)
    runs.clear()
    load(bundle).close()
    assert len(runs) == len(once)  # a new driver is another engine


def test_the_cpu_is_what_bundles_were_compared_with(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "compare", lambda *_: pytest.fail("compared"))
    load(bundle, "cpu").close()


@pytest.mark.parametrize("device", [device for device in DEVICES if device not in ("auto", "cpu")])
def test_a_provider_that_is_not_here_says_what_to_install(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, device: Any
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        EngineError, match=rf"`device` {device}: this ONNX Runtime has no {PROVIDERS[device]}: .*onnx|attri"
    ):
        OrtEngine(bundle / VISION, device, threads=1)


def test_tensorrt_is_not_looked_for_where_another_device_was_asked_for() -> None:
    assert choose_tensorrt(EngineOptions(device="openvino")) == (None, "")
    with pytest.raises(UsageError, match="leave out `device` openvino"):
        EngineOptions(backend="tensorrt", device="openvino").check()


@pytest.mark.skipif(
    PROVIDERS["openvino"] not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-openvino in the place of onnxruntime: .ci/versions has an environment with it",
)
def test_openvino_itself(bundle: Path, image_files: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    labels = ["red apple", "bird", "cat"]
    with Classifier.load(bundle, labels, device="cpu", threads=1) as cpu, load(bundle) as openvino:
        assert openvino.description.endswith("on openvino")
        openvino.set_labels(labels)
        for one, other in zip(openvino(image_files[:8]), cpu(image_files[:8]), strict=True):
            assert one.label == other.label
            np.testing.assert_array_equal(one.retrieved, other.retrieved)
            np.testing.assert_allclose(
                one.probabilities, other.probabilities, rtol=0, atol=1e-4
            )  # sums in another order
    assert sum("on openvino agrees" in message for message in caplog.messages) == 2
