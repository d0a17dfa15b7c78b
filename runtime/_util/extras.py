"""Optional dependencies: modules, the packages they come in, and the extra of attri that installs them."""

from __future__ import annotations

from typing import NamedTuple


class OptionalModule(NamedTuple):
    """A module that is not installed with attri itself.

    Attributes:
        module: as it is imported.
        package: as pip calls it.
        extra: of attri, `pip install 'attri[EXTRA]'`, as in pyproject.toml.
        purpose: what attri-run needs it for.
    """

    module: str
    package: str
    extra: str
    purpose: str = ""


_TABLE = (
    OptionalModule("torch", "torch", "train"),
    OptionalModule("torchvision", "torchvision", "train"),
    OptionalModule("open_clip", "open_clip_torch", "train"),
    OptionalModule("safetensors", "safetensors", "train"),
    OptionalModule("rich", "rich", "train"),
    OptionalModule("matplotlib", "matplotlib", "train"),
    OptionalModule("jinja2", "Jinja2", "train"),
    OptionalModule("tensorboard", "tensorboard", "tensorboard"),
    OptionalModule("onnx", "onnx", "export"),
    OptionalModule("onnxscript", "onnxscript", "export"),
    OptionalModule("onnxruntime", "onnxruntime", "onnx", "running graphs"),
    OptionalModule("tensorrt", "tensorrt", "trt", "running graphs faster on an NVIDIA GPU"),
    OptionalModule("tokenizers", "tokenizers", "siglip", "models with a vocabulary of their own (SigLIP)"),
    OptionalModule("av", "av", "camera", "video files, streams, --save-video"),
    OptionalModule("cv2", "opencv-python-headless", "camera", "cameras"),
    OptionalModule("pillow_heif", "pillow-heif", "heif", "HEIC images"),
    OptionalModule("paho", "paho-mqtt", "mqtt", "--mqtt"),
    OptionalModule("prometheus_client", "prometheus-client", "metrics", "--metrics"),
    OptionalModule("pyarrow", "pyarrow", "batch"),
    OptionalModule("fsspec", "fsspec", "batch"),
    OptionalModule("tuf", "tuf", "fleet"),
    OptionalModule("cryptography", "cryptography", "publish"),
    OptionalModule("starlette", "starlette", "serve", "--serve"),
    OptionalModule("uvicorn", "uvicorn", "serve", "--serve"),
    OptionalModule("python_multipart", "python-multipart", "serve", "--serve"),
    OptionalModule("tomlkit", "tomlkit", "serve", "writing regions into the sources file"),
)
MODULES = {each.module: each for each in _TABLE}
