"""What others may rely on: the names in __all__ are there, and paths are taken as str or Path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attri.calibration.images import find_calibration_images
from attri.export.onnx import export_bundle
from attri.export.quantize import Calibration
from attri.export.score_calibration import find_negatives
from attri.runtime import Bundle, Classifier, stream
from attri.runtime.bundle import read_manifest
from attri.runtime.errors import AttriError
from attri.runtime.images import list_images, load_image
from attri.runtime.labels import read_labels
from attri.train import fit, load_run
from attri.train.data import read_data, read_target
from attri.train.evaluation import run
from attri.train.model.backbone import load_backbone
from attri.train.pocket import IMAGES

PACKAGES = [
    *("attri.runtime", "attri.train", "attri.export", "attri.calibration"),
    *(f"attri.train.{room}" for room in ("data", "evaluation", "model", "report", "training")),
]
TAKE_PATHS = [
    *(Bundle.open, Classifier.load, stream, read_manifest, list_images, load_image, read_labels),
    *(fit, load_run, read_data, read_target, run, load_backbone),
    *(export_bundle, Calibration, find_negatives, find_calibration_images),
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_in_all_is_there(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        module.nothing_of_that_name  # noqa: B018


@pytest.mark.parametrize("function", TAKE_PATHS, ids=lambda function: function.__qualname__)
def test_a_parameter_that_takes_a_path_takes_a_str(function: Callable[..., Any]) -> None:
    kinds = [str(each.annotation) for each in inspect.signature(function).parameters.values()]
    paths = [kind for kind in kinds if "Path" in kind or kind in ("Source", "ImageInput")]
    assert paths
    assert [kind for kind in paths if "Path" in kind and "str" not in kind and kind != "tuple[Path, ...]"] == []


@pytest.mark.parametrize(
    "function", [list_images, read_data, read_target, find_calibration_images], ids=lambda f: f.__name__
)
def test_a_str_names_what_its_path_does(function: Callable[[Path | str], object]) -> None:
    assert function(str(IMAGES)) == function(IMAGES)


@pytest.mark.parametrize(
    "function", [load_run, read_manifest, Bundle.open, find_negatives], ids=lambda f: f.__qualname__
)
def test_a_str_that_names_nothing_is_refused_as_its_path_is(function: Callable[[Path | str], object]) -> None:
    with pytest.raises(AttriError, match="nowhere") as by_path:
        function(Path("nowhere"))
    with pytest.raises(AttriError, match="nowhere") as by_str:
        function("nowhere")
    assert str(by_str.value) == str(by_path.value)
