"""attri-export: from a run to a bundle that agrees with it."""

from __future__ import annotations

from pathlib import Path

import click

from attri.runtime.command import Command


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"), metavar="[RUN]")
@click.option("--output", type=click.Path(path_type=Path), default=Path("bundle"), show_default=True)
@click.option("--fp16", is_flag=True, help="Half precision; retrieval, norms and softmax stay float32.")
@click.option("--labels", type=click.Path(path_type=Path), help="Default labels of the bundle. [the run's classes]")
@click.option(
    "--parity-data", type=click.Path(path_type=Path), help="Folder of pictures to compare on. [the run's data]"
)
@click.option("--parity-pictures", type=click.IntRange(1), default=64, show_default=True, help="How many of them.")
@click.option("--min-cosine", type=click.FloatRange(-1, 1), help="Gate for image and text features. [by precision]")
@click.option("--min-retrieved", type=click.FloatRange(0, 1), help="Gate for equal entries. [by precision]")
@click.option("--min-top1", type=click.FloatRange(0, 1), help="Gate for equal best classes. [by precision]")
@click.option("--opset", type=click.Choice(["17", "18"]), default="18", show_default=True)
@click.version_option(package_name="attri")
def main(
    run: Path,
    output: Path,
    fp16: bool,
    labels: Path | None,
    parity_data: Path | None,
    parity_pictures: int,
    min_cosine: float | None,
    min_retrieved: float | None,
    min_top1: float | None,
    opset: str,
) -> None:
    """Fold RUN (runs/latest) into two ONNX graphs, hold them against the PyTorch model, and write a bundle."""
    from attri.export.onnx import export_bundle
    from attri.export.parity import Gates
    from attri.runtime.labels import read_labels
    from attri.train.checkpoint import load_run
    from attri.train.fit import load_model

    words = read_labels(labels) if labels else None
    trained = load_run(run)
    pictures = sample(parity_data or Path(trained.data), parity_pictures)
    precision = "fp16" if fp16 else "fp32"
    usual = Gates.of(precision)
    given = (min_cosine, min_retrieved, min_top1)
    usual_values = (usual.cosine, usual.retrieved, usual.top1)
    gates = Gates(*(u if g is None else g for g, u in zip(given, usual_values, strict=True)))
    report = export_bundle(
        load_model(trained),
        output,
        words or trained.classes,
        pictures,
        precision=precision,
        template=trained.train.template,
        opset=int(opset),
        gates=gates,
    )
    click.echo(report.table())
    size = sum(file.stat().st_size for file in output.iterdir()) / 2**20
    click.echo(f"bundle  {output}  {precision}  {size:.1f} MB")


def sample(data: Path, count: int) -> list[Path]:
    """Up to `count` pictures, evenly over the folder; of test where it is a dataset that has such."""
    from attri.runtime.errors import UsageError
    from attri.runtime.images import list_images
    from attri.train.data import read_target

    if not data.exists():
        raise UsageError(f"{data}: no such folder; name pictures for the parity check with --parity-data")
    try:
        pictures = [picture.path for picture in read_target(data).test]
    except UsageError:  # not a dataset, but pictures all the same
        pictures = list_images(data) if data.is_dir() else []
    if not pictures:
        raise UsageError(f"{data} holds no pictures: name some for the parity check with --parity-data")
    return [pictures[i * len(pictures) // count] for i in range(count)] if len(pictures) > count else pictures


if __name__ == "__main__":
    main()
