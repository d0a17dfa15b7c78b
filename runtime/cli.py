"""attri-run: classify pictures, folders and videos with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attri.runtime.command import Command
from attri.runtime.engines import BACKENDS, DEVICES

if TYPE_CHECKING:
    from attri.runtime.classifier import Classifier


@click.command(cls=Command)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--labels", type=click.Path(path_type=Path), help="Text file, one label a line. [the bundle's own]")
@click.option("--bundle", type=click.Path(path_type=Path), default=Path("bundle"), show_default=True)
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="What runs the graphs.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--engine-dir", type=click.Path(path_type=Path), help="Where TensorRT's engines are. [in the bundle]")
@click.option("--rebuild", is_flag=True, help="Build TensorRT's engines again.")
@click.option("--topk", type=click.IntRange(1), default=1, show_default=True, help="Labels to print per frame.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Below it: none of the labels. [the bundle's own]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [one per core]")
@click.option("--cache-mb", type=click.IntRange(0), default=256, show_default=True, help="Bound on the text cache.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per frame.")
@click.version_option(package_name="attri")
def main(
    sources: tuple[str, ...],
    labels: Path | None,
    bundle: Path,
    backend: str,
    device: str,
    engine_dir: Path | None,
    rebuild: bool,
    topk: int,
    threshold: float | None,
    threads: int | None,
    cache_mb: int,
    as_json: bool,
) -> int:
    """Classify SOURCEs: pictures, folders of pictures, quoted globs, video files."""
    from attri.runtime.classifier import Classifier
    from attri.runtime.labels import label_lines
    from attri.runtime.sources import resolve

    lines = label_lines(labels) if labels else None
    files = resolve(sources)
    classifier = Classifier.load(
        bundle,
        backend=backend,
        device=device,
        threads=threads,
        engine_dir=engine_dir,
        rebuild=rebuild,
        cache_bytes=cache_mb << 20,
    )
    if lines:
        classifier.set_labels(list(lines), [f"{labels} line {number}" for number in lines.values()])
    if threshold is not None:
        classifier.threshold = threshold
    click.echo(f"{bundle}: {classifier.description}, {len(classifier.labels)} labels", err=True)
    return classify(classifier, files, topk, as_json)


def classify(classifier: Classifier, files: list[Path], topk: int, as_json: bool) -> int:
    """Print every frame; 1 if any could not be read."""
    from attri.runtime.errors import FailedError, ImageError
    from attri.runtime.sinks import json_line, text_line
    from attri.runtime.sources import VIDEO_SUFFIXES, frames

    done = failed = 0
    for file in files:
        video = file.suffix.lower() in VIDEO_SUFFIXES
        try:
            for frame in frames(file):
                if isinstance(frame.image, ImageError):
                    raise frame.image
                prediction = classifier(frame.image)
                line = json_line(frame, prediction, topk) if as_json else text_line(frame, prediction, topk, video)
                click.echo(line)
                done += 1
        except FailedError as error:
            click.echo(f"error: {error}", err=True)
            failed += 1
    hits = classifier.cache.hits / max(1, done)
    click.echo(f"{done} frames, {hits:.0%} from the text cache" + (f", {failed} files failed" * bool(failed)), err=True)
    return 1 if failed else 0


if __name__ == "__main__":
    main()
