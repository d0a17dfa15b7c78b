"""attri-export: fold a trained run into a bundle, check it against the PyTorch model, and build engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.export.command_options import CommandOptions, command_options
from attri.export.engine_options import build_engines, engine_options, takes_only_engines, with_engine_options
from attri.runtime.cli.command import ENGINE, Command, option
from attri.runtime.errors import FailedError, UsageError

if TYPE_CHECKING:
    from attri.export.parity.report import ParityReport
    from attri.export.quantize import Calibration
    from attri.train.model import AttriPrompt
    from attri.train.training.checkpoint import Run


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"), metavar="[RUN|BUNDLE]")
@command_options
@option(ENGINE, "--trt", is_flag=True, help="Build TensorRT engines for this machine; given a BUNDLE, do only that.")
@with_engine_options
@click.version_option(package_name="attri")
def main(run: Path, options: CommandOptions, trt: bool, **engines: Any) -> None:
    """Fold RUN (runs/latest) into two ONNX graphs, compare them with the PyTorch model, and write a bundle.

    parity.json and report.html in the bundle show every comparison and describe the model. Scores are calibrated on
    validation images if the run's data has any, never on test images. Without further options no image is rejected.

    Given a BUNDLE and --trt, only its TensorRT engines are built. Do this on the device that will run them.
    """
    how = engine_options(trt, engines)
    if takes_only_engines(run, trt):
        build_engines(run, *how)
        return
    calibration = options.calibration()
    _require_run(run, trt)
    report = _export(run, options, calibration)
    from attri.export.summary import summary_lines

    click.echo(report.table())
    for line in summary_lines(options.output):
        click.echo(line)
    if trt:
        build_engines(options.output, *how)


def _require_run(path: Path, trt: bool) -> None:
    """Check that the folder is a run, before torch is imported: on a device, torch is not what is missing.

    Raises:
        UsageError: it is none.
    """
    if not any((path / name).is_file() for name in ("prompt.safetensors", "state.safetensors")):
        or_bundle = ", or name a bundle to build its engines" if trt else ""
        raise UsageError(f"no trained prompt in {path}: run attri-train first{or_bundle}")


def _export(run: Path, options: CommandOptions, calibration: Calibration | None) -> ParityReport:
    from attri.export.progress import ConsoleProgress
    from attri.runtime.labels import read_labels

    labels = read_labels(options.labels) if options.labels else None
    with ConsoleProgress() as progress:
        progress.begin("starting PyTorch")
        from attri.export.bundle.model_card import Card
        from attri.export.onnx import ExportOptions, export_bundle
        from attri.export.parity.images import find_parity_images, parity_images_of_run
        from attri.train.training.checkpoint import load_run

        run = run.resolve()  # once: runs/latest points elsewhere when a training ends meanwhile
        trained = load_run(run)
        card = Card.of(run, trained)
        scores = options.score_calibration(trained)
        data, count = options.parity_data, options.parity_images
        images = find_parity_images(data, count) if data else parity_images_of_run(trained, count)
        request = ExportOptions(
            precision=options.precision,
            template=trained.train.template,
            opset=options.opset,
            gates=options.gates(),
            calibration=calibration,
            scores=scores,
            card=card,
        )
        labels = labels or trained.classes
        request.check(trained.prompt, options.output, labels, images)  # all that can be refused at once
        progress.begin(f"loading {trained.backbone['model']}")
        return export_bundle(load_trained_model(trained, run), options.output, labels, images, request, progress)


def load_trained_model(run: Run, path: Path) -> AttriPrompt:
    """Rebuild the trained model.

    Raises:
        FailedError: the tensors do not fit the settings of the run.
    """
    from attri.train.fitting import load_model

    try:
        return load_model(run)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise FailedError(f"the tensors in {path} do not fit its settings, it is damaged: train again") from error


if __name__ == "__main__":
    main()
