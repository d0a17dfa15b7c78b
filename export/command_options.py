"""Options of attri-export that describe the bundle to write; those of engines are in `engine_options`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from attri.calibration.activation_ranges import METHODS, CalibrationMethod
from attri.calibration.images import find_calibration_images
from attri.runtime.bundle import Precision
from attri.runtime.cli.command import BUNDLE, INT8, PARITY, SCORES, option
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    from attri.export.parity.gates import Gates
    from attri.export.quantize import Calibration
    from attri.export.score_calibration import ScoreCalibrationRequest
    from attri.train.training.checkpoint import Run

__all__ = ["CommandOptions", "command_options"]


class _Number(click.FloatRange):
    """A float in a range. Click's own lets NaN pass, which compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


@dataclass(frozen=True)
class CommandOptions:
    """The options as they were given; their help texts are in `_OPTIONS`."""

    output: Path | None
    prompt_only: bool
    base: Path | None
    zero_shot: bool
    model: str | None
    pretrained: str | None
    fp16: bool
    int8: bool
    calibration_data: Path | None
    calibration_method: CalibrationMethod | None
    int8_target: float | None
    labels: Path | None
    parity_data: Path | None
    parity_images: int
    min_cosine: float | None
    min_retrieved: float | None
    min_top1: float | None
    calibrate: bool | None
    validation_data: Path | None
    negatives: Path | None
    false_accepts: float | None
    false_rejects: float | None
    opset: int
    explain: bool
    keep_features: bool

    @property
    def precision(self) -> Precision:
        """The precision that was asked for."""
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"

    @property
    def target(self) -> Path:
        """The bundle, or with --prompt-only the file, to write."""
        return self.output or Path("prompt.attri" if self.prompt_only else "bundle")

    def check_prompt_only(self) -> None:
        """Refuse options that have no use with --prompt-only, or without it.

        Raises:
            UsageError: names them.
        """
        if self.base is not None and not self.prompt_only:
            raise UsageError("--base is the bundle of a prompt that is exported alone: add --prompt-only")
        if not self.prompt_only:
            return
        if self.base is None:
            raise UsageError("--prompt-only makes a prompt for the graphs of a bundle: name it with --base")
        context = click.get_current_context()
        of_base = ("fp16", "int8", "opset", "explain", "calibration_data", "calibration_method", "int8_target", "trt")
        given = [name for name in of_base if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"with --prompt-only the graphs are those of {self.base}: leave out {named}")

    def check_zero_shot(self) -> None:
        """Refuse options that have no use with --zero-shot, or without it.

        Raises:
            UsageError: names them, or what is missing.
        """
        if not self.zero_shot:
            if given := [f"--{name}" for name in ("model", "pretrained") if getattr(self, name) is not None]:
                raise UsageError(f"{' and '.join(given)} without --zero-shot: a run names its model itself")
            return
        if click.get_current_context().get_parameter_source("run") is ParameterSource.COMMANDLINE:
            raise UsageError("--zero-shot exports plain CLIP, which no run has trained: leave out RUN")
        if self.labels is None or self.parity_data is None:
            raise UsageError("--zero-shot has no run to take labels and images from: give --labels and --parity-data")
        if self.keep_features:
            raise UsageError("--zero-shot has no run, and no training images: leave out --keep-features")
        if self.calibrate or self.validation_data or self.negatives or self.false_rejects is not None:
            raise UsageError("--zero-shot has no run whose validation images could be taken: leave its scores")

    def gates(self, precision: Precision) -> Gates:
        """Combine the gates that were given with the default ones of the precision."""
        from attri.export.parity.gates import Gates

        default = Gates.of(precision)
        return Gates(
            default.cosine if self.min_cosine is None else self.min_cosine,
            default.retrieved if self.min_retrieved is None else self.min_retrieved,
            default.top1 if self.min_top1 is None else self.min_top1,
        )

    def calibration(self) -> Calibration | None:
        """Read the options of int8; None without --int8.

        Raises:
            UsageError: options that exclude each other or need --int8, or a folder without images.
        """
        if self.int8 and self.fp16:
            # QuantizeLinear takes half from opset 19 on, which TensorRT 8.6 does not read; on a CPU half is no gain.
            raise UsageError(
                "--int8 and --fp16 exclude each other: up to opset 18 int8 is made from float32, choose one"
            )
        names = ("calibration_data", "calibration_method", "int8_target")
        if not self.int8:
            if unused := [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]:
                raise UsageError(f"{' and '.join(unused)} without --int8: nothing would use it")
            return None
        if self.calibration_data is None:
            raise UsageError("--int8 is fitted on real images: name a folder of about 100 with --calibration-data")
        find_calibration_images(self.calibration_data)  # refuses the folder before anything heavy is imported
        from attri.export.quantize import Calibration

        return Calibration(self.calibration_data, self.calibration_method or METHODS[0], self.int8_target)

    def score_calibration(self, run: Run) -> ScoreCalibrationRequest:
        """Choose the images that temperature and threshold are fitted on.

        Without --calibrate and --validation-data the run's validation images are taken; where it has too few, that is
        reported on stderr and the scores stay as they are.

        Raises:
            UsageError: options that exclude each other, or images that were asked for and are not there.
        """
        from attri.export.score_calibration import FALSE_ACCEPTS, ScoreCalibrationRequest, Validation, find_negatives

        self._check_score_options()
        negatives, accepts = [], None
        if self.negatives is not None:
            negatives = find_negatives(self.negatives)
            accepts = FALSE_ACCEPTS if self.false_accepts is None else self.false_accepts
        if self.calibrate is False:
            return ScoreCalibrationRequest(negatives=negatives, false_accepts=accepts)
        folder, rejects = self.validation_data, self.false_rejects
        try:
            validation = Validation.of_run(run) if folder is None else Validation.of_folder(folder, run)
        except UsageError as error:
            if self.calibrate or folder is not None:
                raise
            click.echo(f"scores are not calibrated: {error}; name images with --validation-data", err=True)
            # The report leaves this machine: it gets the name of the data, without its path.
            why = str(error).replace(f"{Path(run.data).parent}/", "")
            return ScoreCalibrationRequest(None, why, negatives, accepts, rejects)
        return ScoreCalibrationRequest(validation, "", negatives, accepts, rejects, self.calibrate is True)

    def _check_score_options(self) -> None:
        if self.false_accepts is not None and self.negatives is None:
            raise UsageError(
                "--false-accepts is a share of images that show none of the labels: name them with --negatives"
            )
        if self.negatives is not None and self.false_rejects is not None:
            raise UsageError("--negatives and --false-rejects are two ways to a threshold: choose one")
        if self.calibrate is False and (self.validation_data is not None or self.false_rejects is not None):
            raise UsageError("--no-calibrate uses no validation images, and another option needs them: choose one")


_PATH = click.Path(path_type=Path)
_OPTIONS = [
    option(
        BUNDLE,
        "--output",
        type=_PATH,
        help="Bundle, or prompt, to write; an older one there is replaced. [bundle, prompt.attri]",
    ),
    option(BUNDLE, "--prompt-only", is_flag=True, help="Only make a prompt file for the graphs of --base, in seconds."),
    option(BUNDLE, "--zero-shot", is_flag=True, help="Export plain CLIP, without a prompt, in the place of a run."),
    option(BUNDLE, "--model", help="With --zero-shot: open_clip model name. [pocket]"),
    option(BUNDLE, "--pretrained", metavar="TAG|FILE", help="With --zero-shot: weights of --model."),
    option(BUNDLE, "--base", type=_PATH, metavar="BUNDLE", help="Bundle whose graphs will run the prompt."),
    option(BUNDLE, "--fp16", is_flag=True, help="Half precision; retrieval, norms and softmax stay float32."),
    option(BUNDLE, "--int8", is_flag=True, help="Int8 products for ONNX Runtime and TensorRT; the rest stays float32."),
    option(
        INT8,
        "--calibration-data",
        type=_PATH,
        help="Folder of about 100 real images to calibrate int8 on; of a dataset with splits, its train part.",
    ),
    option(INT8, "--calibration-method", type=click.Choice(METHODS), help="How int8 ranges are chosen. [minmax]"),
    option(INT8, "--int8-target", type=_Number(0, 1), help="Least cosine that int8 must reach. [the gate]"),
    option(BUNDLE, "--labels", type=_PATH, help="Default labels of the bundle. [the run's classes]"),
    option(PARITY, "--parity-data", type=_PATH, help="Folder of images for the parity check. [the run's data]"),
    option(PARITY, "--parity-images", type=click.IntRange(1), default=64, show_default=True, help="Images to compare."),
    option(PARITY, "--min-cosine", type=_Number(-1, 1), help="Gate for image and text features. [by precision]"),
    option(PARITY, "--min-retrieved", type=_Number(0, 1), help="Gate for equal pool entries. [by precision]"),
    option(PARITY, "--min-top1", type=_Number(0, 1), help="Gate for equal best labels. [by precision]"),
    option(
        SCORES,
        "--calibrate/--no-calibrate",
        default=None,
        help="Fit a temperature to the scores. [where the run's data has validation images]",
    ),
    option(SCORES, "--validation-data", type=_PATH, help="Class folders to fit it on. [the run's validation part]"),
    option(
        SCORES, "--negatives", type=_PATH, help="Folder of images that show none of the labels, to choose a threshold."
    ),
    option(SCORES, "--false-accepts", type=_Number(0, 1), help="Share of --negatives that may pass. [0.05]"),
    option(
        SCORES,
        "--false-rejects",
        type=_Number(0, 1),
        help="Choose the threshold that rejects this share of validation images.",
    ),
    option(BUNDLE, "--opset", type=int, default=18, show_default=True, help="ONNX opset, 17 or 18."),
    option(BUNDLE, "--explain", is_flag=True, help="Add a graph that says which parts of an image speak for a label."),
    option(
        BUNDLE,
        "--keep-features",
        is_flag=True,
        help="Keep features of the run's training images in the prompt, to name those nearest to a frame.",
    ),
]


def command_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command these options; its function receives them as one argument, `options`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        options = CommandOptions(**{field.name: kwargs.pop(field.name) for field in fields(CommandOptions)})
        return command(*args, options=options, **kwargs)

    for decorate in reversed(_OPTIONS):
        wrapper = decorate(wrapper)
    return wrapper
