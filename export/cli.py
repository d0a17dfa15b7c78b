"""attri-export: fold a trained run into a bundle, check it against the PyTorch model, and build engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.export.command_options import CommandOptions, command_options
from attri.export.engine_options import build_engines, engine_options, takes_only_engines, with_engine_options
from attri.runtime.cli.command import ENGINE, Command, option
from attri.runtime.errors import FailedError, UsageError

if TYPE_CHECKING:
    from attri.export.bundle.model_card import Card
    from attri.export.parity.report import ParityReport
    from attri.export.quantize import Calibration
    from attri.export.score_calibration import ScoreCalibrationRequest
    from attri.export.training_images import LabelledFiles
    from attri.runtime.bundle import Bundle
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

    With --zero-shot plain CLIP is exported in the place of RUN, for labels alone: prompts for it may come later.

    With --prompt-only the graphs of a bundle that is there are kept: a prompt of 2 MB is made for them and compared.

    Given a BUNDLE and --trt, only its TensorRT engines are built. Do this on the device that will run them.
    """
    how = engine_options(trt, engines)
    if takes_only_engines(run, trt):
        build_engines(run, *how)
        return
    options.check_prompt_only()
    options.check_zero_shot()
    calibration = options.calibration()
    if not options.zero_shot:
        _require_run(run, trt)
    if options.prompt_only:
        click.echo(_export_prompt(run, options).table())
        from attri.export.summary import prompt_lines

        size = options.target.stat().st_size / 2**20
        for line in prompt_lines(options.target):
            click.echo(line)
        click.echo(f"prompt  {options.target}  {size:.2f} MB  for {options.base}")
        return
    report = _export(run, options, calibration)
    click.echo(report.table())
    from attri.export.summary import summary_lines

    for line in summary_lines(options.target):
        click.echo(line)
    if trt:
        build_engines(options.target, *how)


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

    with ConsoleProgress() as progress:
        progress.begin("starting PyTorch")
        from attri.export.onnx import ExportOptions, export_bundle

        what = _read_zero_shot(options) if options.zero_shot else _read_run(run, options)
        request = ExportOptions(
            precision=options.precision,
            template=what.template,
            opset=options.opset,
            gates=options.gates(options.precision),
            calibration=calibration,
            scores=what.scores,
            card=what.card,
            zero_shot=options.zero_shot,
            attracts=what.attracts,
            explain=options.explain,
            training=what.training,
        )
        request.check(options.target, what.labels, what.images)  # all that can be refused at once
        progress.begin(f"loading {what.name}")
        return export_bundle(what.load(), options.target, what.labels, what.images, request, progress)


def _export_prompt(run: Path, options: CommandOptions) -> ParityReport:
    from attri.export.progress import ConsoleProgress
    from attri.runtime.bundle import Bundle

    assert options.base is not None
    with ConsoleProgress() as progress, Bundle.open(options.base) as base:
        progress.begin("starting PyTorch")
        from attri.export.prompt import PromptOptions, export_prompt

        what = _read_zero_shot(options, base) if options.zero_shot else _read_run(run, options)
        request = PromptOptions(
            template=what.template,
            gates=options.gates(base.manifest.precision),
            scores=what.scores,
            source={"run": what.name, **asdict(what.card)},
            zero_shot=options.zero_shot,
            attracts=what.attracts,
            training=what.training,
        )
        progress.begin(f"loading {what.name}")
        return export_prompt(what.load(), base, options.target, what.labels, what.images, request, progress)


@dataclass(frozen=True)
class _Subject:
    """What is exported: a run, or plain CLIP.

    Attributes:
        name: of the model, for people.
        template: the sentence around each label.
        labels: the default labels.
        images: of the parity check.
        scores: what temperature and threshold are fitted on.
        card: what is known of the training.
        load: loads the model, which takes long.
        attracts: the classes that the pool's entries attract; None where that is not known.
        training: the images whose features are kept; None where none are.
    """

    name: str
    template: str
    labels: list[str]
    images: list[Path]
    scores: ScoreCalibrationRequest
    card: Card
    load: Callable[[], AttriPrompt]
    attracts: list[list[list[str]]] | None = None
    training: LabelledFiles | None = None


def _read_run(run: Path, options: CommandOptions) -> _Subject:
    from attri.export.bundle.model_card import Card, entry_names, results_of
    from attri.export.training_images import training_files
    from attri.runtime.labels import read_labels
    from attri.train.training.checkpoint import load_run

    labels = read_labels(options.labels) if options.labels else None
    run = run.resolve()  # once: runs/latest points elsewhere when a training ends meanwhile
    trained = load_run(run)
    return _Subject(
        name=trained.backbone["model"],
        template=trained.train.template,
        labels=labels or trained.classes,
        images=_parity_images(trained, options),
        scores=options.score_calibration(trained),
        card=Card.of(run, trained),
        load=lambda: load_trained_model(trained, run),
        attracts=entry_names(results_of(run, trained)),
        training=training_files(run, trained) if options.keep_features else None,
    )


def _read_zero_shot(options: CommandOptions, base: Bundle | None = None) -> _Subject:
    """Plain CLIP, as given by the options or, for a prompt, as the base has it."""
    from attri.export.bundle.model_card import Card
    from attri.export.parity.images import find_parity_images
    from attri.export.pooled import zero_shot_model
    from attri.export.score_calibration import ScoreCalibrationRequest
    from attri.runtime.labels import read_labels
    from attri.train.config import TEMPLATE
    from attri.train.model.backbone import load_backbone

    assert options.labels is not None
    assert options.parity_data is not None
    name = options.model or (base.manifest.model["name"] if base else "pocket")
    shape = base.manifest.retrieval if base else None
    return _Subject(
        name=name,
        template=TEMPLATE,
        labels=read_labels(options.labels),
        images=find_parity_images(options.parity_data, options.parity_images),
        scores=ScoreCalibrationRequest(),
        card=Card(),
        load=lambda: zero_shot_model(load_backbone(name, options.pretrained), shape),
    )


def _parity_images(run: Run, options: CommandOptions) -> list[Path]:
    from attri.export.parity.images import find_parity_images, parity_images_of_run

    data, count = options.parity_data, options.parity_images
    return find_parity_images(data, count) if data else parity_images_of_run(run, count)


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
