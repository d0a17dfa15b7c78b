"""ONNX Runtime never goes on with another provider than the one that was asked for, unless that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from attri.runtime.bundle import VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import EngineError


class FailsOnce:
    """The session behind ONNX Runtime's own, whose provider breaks in its first run."""

    def __init__(self, session: Any) -> None:
        self._session, self._fails = session, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *args: Any) -> Any:
        if self._fails:
            self._fails = False
            raise EPFail("CUDA failure 700")
        return self._session.run(*args)


def test_a_provider_that_fails_is_an_error_and_nothing_runs_elsewhere(
    bundle: Path, make_pixels: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Session(onnxruntime.InferenceSession):
        _sess: Any

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._sess = FailsOnce(self._sess)  # what ONNX Runtime's own `run` calls

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    engine = OrtEngine(bundle / VISION, "cpu", threads=1)
    opened = Bundle.open(bundle)
    feed = {"pixels": make_pixels(opened.preprocess(), 1), **opened.prompt.vision_inputs}
    with pytest.raises(EngineError, match="ONNX Runtime failed: CUDA failure 700"):
        engine.run(feed)
    assert capfd.readouterr().out == ""
    assert engine.run(feed)


@pytest.mark.parametrize("old", [False, True], ids=["raises", "goes on by itself"])
def test_a_session_that_cannot_start(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], old: bool
) -> None:
    """As newer releases do it, and as 1.20 does. What other threads print meanwhile goes where it always goes."""

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: Any, providers: list[str], enable_fallback: int) -> None:
            self._enable_fallback = old or bool(enable_fallback)
            print("a result")
            if providers[0] != "CPUExecutionProvider":
                if not self._enable_fallback:
                    raise RuntimeError("CUDA failure 100: no CUDA-capable device")
                print("*************** EP Error ***************")
            super().__init__(path, options, ["CPUExecutionProvider"], enable_fallback=enable_fallback)

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    engine = OrtEngine(bundle / VISION, "auto", threads=1)
    assert engine.description == f"CUDA does not start here: ONNX Runtime {onnxruntime.__version__} on cpu"
    with pytest.raises(EngineError, match="no CUDA-capable device"):
        OrtEngine(bundle / VISION, "cuda", threads=1)
    assert capfd.readouterr().out == "a result\n" * 3
