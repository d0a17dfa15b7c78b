"""attri-export: from a run to a bundle that agrees with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.calibration.activation_ranges import METHODS
from attri.calibration.images import evenly, find_calibration_images
from attri.export.engine_options import build_engines, engine_options, takes_only_engines, with_engine_options
from attri.runtime.cli.command import Command
from attri.runtime.errors import FailedError, UsageError

if TYPE_CHECKING:
    from attri.export.quantize import Calibration
    from attri.export.score_calibration import ScoreCalibrationRequest
    from attri.train.model import AttriPrompt
    from attri.train.training.checkpoint import Run


class Number(click.FloatRange):
    """NaN compares with nothing, so that the plain range lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"), metavar="[RUN|BUNDLE]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("bundle"),
    show_default=True,
    help="Bundle to write; an older bundle there is replaced.",
)
@click.option("--fp16", is_flag=True, help="Half precision; retrieval, norms and softmax stay float32.")
@click.option("--int8", is_flag=True, help="Int8 products for ONNX Runtime and TensorRT; the rest stays float32.")
@click.option(
    "--calibration-data",
    type=click.Path(path_type=Path),
    help="Folder of real pictures that int8 is fitted on, about 100; of its train, where there is one.",
)
@click.option("--calibration-method", type=click.Choice(METHODS), help="How int8 ranges are found. [minmax]")
@click.option("--int8-target", type=Number(0, 1), help="Least cosine that int8 must reach. [the gate]")
@click.option("--labels", type=click.Path(path_type=Path), help="Default labels of the bundle. [the run's classes]")
@click.option(
    "--parity-data", type=click.Path(path_type=Path), help="Folder of pictures to compare on. [the run's data]"
)
@click.option("--parity-images", type=click.IntRange(1), default=64, show_default=True, help="How many of them.")
@click.option("--min-cosine", type=Number(-1, 1), help="Gate for image and text features. [by precision]")
@click.option("--min-retrieved", type=Number(0, 1), help="Gate for equal entries. [by precision]")
@click.option("--min-top1", type=Number(0, 1), help="Gate for equal best classes. [by precision]")
@click.option("--trt", is_flag=True, help="Build TensorRT engines for this machine; of a bundle, only that.")
@with_engine_options
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Fit a temperature to the scores. [where the run's data has pictures for validation]",
)
@click.option(
    "--validation-data", type=click.Path(path_type=Path), help="Class folders to fit it on. [the run's validation part]"
)
@click.option(
    "--negatives", type=click.Path(path_type=Path), help="Folder of pictures that show none of the labels: a threshold."
)
@click.option("--false-accepts", type=Number(0, 1), help="Share of --negatives that may pass. [0.05]")
@click.option("--false-rejects", type=Number(0, 1), help="A threshold that rejects this share of validation pictures.")
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX opset, 17 or 18.")
@click.version_option(package_name="attri")
def main(
    run: Path,
    output: Path,
    fp16: bool,
    int8: bool,
    calibration_data: Path | None,
    calibration_method: str | None,
    int8_target: float | None,
    labels: Path | None,
    parity_data: Path | None,
    parity_images: int,
    min_cosine: float | None,
    min_retrieved: float | None,
    min_top1: float | None,
    calibrate: bool | None,
    validation_data: Path | None,
    negatives: Path | None,
    false_accepts: float | None,
    false_rejects: float | None,
    trt: bool,
    opset: int,
    **engines: Any,
) -> None:
    """Fold RUN (runs/latest) into two ONNX graphs, hold them against the PyTorch model, and write a bundle.

    The bundle has parity.json and report.html: every comparison, and what the model is. Its scores are calibrated on
    validation pictures where the run's data has any, never on test pictures. Nothing is rejected unless asked for.

    With --trt, and a bundle in the place of RUN, only its TensorRT engines are built, on the device that will run them.
    """
    options = engine_options(trt, engines)
    if takes_only_engines(run, trt):
        build_engines(run, *options)
        return
    calibration = int8_options(int8, fp16, calibration_data, calibration_method, int8_target)
    require_run(run, trt)
    from attri.export.stages import Stages
    from attri.runtime.bundle import read_manifest
    from attri.runtime.labels import read_labels

    words = read_labels(labels) if labels else None
    with Stages() as stages:
        stages.begin("starting PyTorch")
        from attri.export.bundle.model_card import Card
        from attri.export.onnx import check_request, export_bundle
        from attri.export.parity.compare import Gates
        from attri.train.training.checkpoint import load_run

        run = run.resolve()  # once: runs/latest points elsewhere when a training ends meanwhile
        trained = load_run(run)
        card = Card.of(run, trained)  # before anything that takes long
        words = words or trained.classes
        confidence = confidence_options(trained, calibrate, validation_data, negatives, false_accepts, false_rejects)
        pictures = sample(parity_data, parity_images) if parity_data else sample_of_run(trained, parity_images)
        precision = "int8" if int8 else "fp16" if fp16 else "fp32"
        usual = Gates.of(precision)
        given = (min_cosine, min_retrieved, min_top1)
        usual_values = (usual.cosine, usual.retrieved, usual.top1)
        gates = Gates(*(u if g is None else g for g, u in zip(given, usual_values, strict=True)))
        if calibration is not None:
            calibration = calibration.judged_on(pictures)
        check_request(trained.prompt, output, words, precision, opset, gates, calibration, confidence)
        stages.begin(f"loading {trained.backbone['model']}")
        report = export_bundle(
            rebuild(trained, run),
            output,
            words,
            pictures,
            precision=precision,
            template=trained.train.template,
            opset=opset,
            gates=gates,
            calibration=calibration,
            confidence=confidence,
            card=card,
            tell=stages.say,
            stage=stages.begin,
        )
    click.echo(report.table())
    size = sum(file.stat().st_size for file in output.iterdir()) / 2**20
    click.echo(f"bundle  {output}  {precision}  {size:.1f} MB")
    manifest = read_manifest(output)
    for name, graph in manifest.arithmetic.get("graphs", {}).items():
        click.echo(f"{precision}    {name}  {shares(graph)}")
    click.echo(f"scores  {scores(output)}")
    if trt:
        build_engines(output, *options)


def require_run(path: Path, trt: bool) -> None:
    """Raises UsageError where there is none. Before torch is imported: on a device, that is not what is missing."""
    if not any((path / name).is_file() for name in ("prompt.safetensors", "state.safetensors")):
        or_bundle = ", or name a bundle to build its engines" if trt else ""
        raise UsageError(f"no trained prompt in {path}: run attri-train first{or_bundle}")


def rebuild(run: Run, path: Path) -> AttriPrompt:
    """The trained model. Raises FailedError where the tensors are not those of its config."""
    from attri.train.fit import load_model

    try:
        return load_model(run)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise FailedError(f"the tensors in {path} do not fit its settings, it is damaged: train again") from error


def int8_options(
    int8: bool, fp16: bool, data: Path | None, method: str | None, target: float | None
) -> Calibration | None:
    """The options of int8, which go together or not at all."""
    if int8 and fp16:
        # QuantizeLinear takes half from opset 19 on, which TensorRT 8.6 does not read; and on a CPU half is no gain.
        raise UsageError("--int8 and --fp16 exclude each other: up to opset 18 int8 is made from float32, choose one")
    if not int8:
        given = {"--calibration-data": data, "--calibration-method": method, "--int8-target": target}
        if unused := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{' and '.join(unused)} without --int8: nothing would use it")
        return None
    if data is None:
        raise UsageError("--int8 is fitted on real pictures: name a folder of about 100 with --calibration-data")
    find_calibration_images(data)  # before anything heavy is imported
    from attri.export.quantize import Calibration

    return Calibration(data, method or METHODS[0], target)


def confidence_options(
    run: Run,
    calibrate: bool | None,
    validation_data: Path | None,
    negatives: Path | None,
    false_accepts: float | None,
    false_rejects: float | None,
) -> ScoreCalibrationRequest:
    """What to fit on which pictures. Only where nobody asked for it, a temperature may be missing: that is said."""
    from attri.export.score_calibration import FALSE_ACCEPTS, ScoreCalibrationRequest, Validation, find_negatives

    if false_accepts is not None and negatives is None:
        raise UsageError("--false-accepts is a share of pictures that show none of the labels: name them, --negatives")
    if negatives is not None and false_rejects is not None:
        raise UsageError("--negatives and --false-rejects are two ways to a threshold: choose one")
    if calibrate is False and (validation_data is not None or false_rejects is not None):
        raise UsageError("--no-calibrate leaves validation pictures out, another option asks for them: choose one")
    accepts = (FALSE_ACCEPTS if false_accepts is None else false_accepts) if negatives is not None else None
    chosen = find_negatives(negatives) if negatives is not None else []
    if calibrate is False:
        return ScoreCalibrationRequest(negatives=chosen, false_accepts=accepts)
    try:
        data = validation_data
        validation = Validation.of_run(run) if data is None else Validation.of_folder(data, run)
    except UsageError as error:
        if calibrate or validation_data is not None:
            raise
        click.echo(f"scores are not calibrated: {error}; name pictures with --validation-data", err=True)
        # The report leaves this machine: it gets the name of the data, without its path.
        why = str(error).replace(f"{Path(run.data).parent}/", "")
        return ScoreCalibrationRequest(None, why, chosen, accepts, false_rejects)
    return ScoreCalibrationRequest(validation, "", chosen, accepts, false_rejects, calibrate is True)


def scores(bundle: Path) -> str:
    """What is done to the scores, for a person."""
    import json

    sure = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))["confidence"]
    return f"{temperature(sure)}; {rejection(sure)}"


def temperature(sure: dict[str, Any]) -> str:
    """Figures of pictures that had a part in the temperature are told from those that had none."""
    if sure["validation"] is None or sure["why"]:
        return f"not calibrated: {sure['why']}"
    base, pictures = sure["base"], f"{sure['base']['pictures']} {sure['validation']}"
    said = f"temperature {sure['temperature']:.3f} from {pictures}"
    if not sure["checked"]:
        said += ", perhaps pictures of the run's training or test: its data cannot be read"
    said += f", calibration error {base['before']['ece']:.1%} without it, {base['after']['ece']:.1%} with it on these"
    said += f" pictures, which it was fitted on, {sure['held_out']:.1%} on each fifth of them with that of the others"
    if "novel" in sure:
        before, after = (sure["novel"][side]["ece"] for side in ("before", "after"))
        said += f"; on other classes {before:.1%} without, {after:.1%} with it"
    return said + (" (worse, kept since --calibrate was given)" if sure["worse"] else "")


def rejection(sure: dict[str, Any]) -> str:
    if sure["threshold"] is None:
        return "nothing rejected"
    out = sure["rejection"]
    price = f", {out['rejected']:.1%} of {out['known']} pictures of the labels are" if "known" in out else ""
    return f"rejected below {sure['threshold']:.4f}{price}"


def shares(graph: dict[str, Any]) -> str:
    """One graph's figures, as the manifest keeps them, for a person."""
    if "flavour" not in graph:
        peak = f"greatest magnitude {graph['peak']:.0f} of 65504"
        return f"{graph['initializers']:.1%} of its initializers, {graph['tensors']:.1%} of its tensors, {peak}"
    kept = f", float32 left in {', '.join(graph['float_layers'])}" if graph["float_layers"] else ""
    return f"{graph['flavour']}, {graph['initializers']:.1%} of its initializers{kept}"


def sample_of_run(run: Run, count: int) -> list[Path]:
    """Up to `count` of the test pictures of a run, so that its training pictures are left for int8 to be fitted on.

    Of a run without test pictures, or whose data is no dataset any more, what `sample` finds.
    """
    from attri.export.score_calibration import data_of

    try:
        test = [picture.path for picture in data_of(run)[0].test]
    except UsageError:
        test = []
    chosen: list[Path] = evenly(test, count) if test else sample(Path(run.data), count)
    return chosen


def sample(data: Path, count: int) -> list[Path]:
    """Up to `count` pictures, evenly over the folder; of test where it is a dataset that has such."""
    from attri.runtime.images import list_images
    from attri.train.data import read_target

    if not data.exists():
        raise UsageError(f"{data}: no such folder; name pictures for the parity check with --parity-data")
    try:
        pictures = [picture.path for picture in read_target(data).test]
    except UsageError:
        if not data.is_dir():  # a table, which said what is wrong with it
            raise
        pictures = list_images(data)  # not a dataset, but pictures all the same
    if not pictures:
        raise UsageError(f"{data} holds no pictures: name some for the parity check with --parity-data")
    chosen: list[Path] = evenly(pictures, count)
    return chosen


if __name__ == "__main__":
    main()
