"""attri-run: classify images, videos, cameras and streams with a bundle."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from attri.runtime._util.wording import plural
from attri.runtime.bundle import PROMPT
from attri.runtime.cli.command import ARGUMENTS, ENGINE, LABELS, Command, option
from attri.runtime.cli.sink_options import Outputs, output_options
from attri.runtime.cli.source_options import Inputs, input_options
from attri.runtime.engines.onnxruntime import DEVICES, Device
from attri.runtime.engines.select import BACKENDS, Backend, EngineOptions
from attri.runtime.errors import UsageError

_LOGGER = logging.getLogger("attri")
_BUNDLE = "Folder that attri-export wrote."


@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="SOURCE...")
@option(
    LABELS, "--labels", type=click.Path(path_type=Path), help="Text file with one label per line. [the bundle's own]"
)
@option(ENGINE, "--bundle", type=click.Path(path_type=Path), default=Path("bundle"), show_default=True, help=_BUNDLE)
@option(
    LABELS, "--prompt", type=click.Path(path_type=Path), help="Prompt file; a new one is taken over. [the bundle's]"
)
@option(
    ENGINE, "--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="What runs the graphs."
)
@option(ENGINE, "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Processor to use.")
@option(ENGINE, "--engine-dir", type=click.Path(path_type=Path), help="Folder of the engine cache. [BUNDLE/engines]")
@option(ENGINE, "--rebuild-engines", is_flag=True, help="Build engines again, even if cached.")
@option(LABELS, "--threshold", type=click.FloatRange(0, 1), help="Scores below mean none of the labels. [the bundle's]")
@option(ENGINE, "--threads", type=click.IntRange(1), help="CPU threads. [one per available CPU]")
@option(
    ENGINE,
    "--text-cache-mb",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    help="Largest size of the text cache, MB.",
)
@option(LABELS, "--shortlist", type=click.IntRange(1), help="Prompt only this many labels, the nearest. [all]")
@input_options
@output_options
@click.version_option(package_name="attri")
def main(
    words: tuple[str, ...],
    labels: Path | None,
    bundle: Path,
    prompt: Path | None,
    backend: Backend,
    device: Device,
    engine_dir: Path | None,
    rebuild_engines: bool,
    threshold: float | None,
    threads: int | None,
    text_cache_mb: int,
    shortlist: int | None,
    inputs: Inputs,
    outputs: Outputs,
) -> int:
    """Classify SOURCEs with a bundle.

    A SOURCE is an image, a folder, a quoted glob, a video, camera0, camera:NAME, /dev/v4l/by-id/..., csi://0, rtsp://,
    http://, gst:PIPELINE, - for JPEGs on standard input, or a name from the --sources file.
    """
    from attri.runtime.classifier import Classifier
    from attri.runtime.cli.sinks import check_sinks, open_sinks
    from attri.runtime.cli.source_options import check_compare, open_pipeline, read_inputs
    from attri.runtime.cli.task_options import check_common

    if shortlist is not None and shortlist < outputs.topk:
        raise UsageError(f"--topk {outputs.topk} shows more labels than --shortlist {shortlist} prompts: raise that")
    specs, files = read_inputs(words, inputs, labels)  # before anything that takes long
    check_common(specs, labels, prompt, inputs.template, threshold)
    secrets = check_sinks(outputs, tasks=any(spec.tasks for spec in specs))
    if outputs.compare:
        check_compare(specs, inputs)
    if outputs.install_service:
        from attri.runtime.capture.sources_file import read_sources
        from attri.runtime.cli.install import absolute_words, check_service, print_unit

        request = EngineOptions(backend, device, threads, engine_dir, rebuild_engines)
        check_service(specs, files, labels, bundle, request, inputs)
        context = click.get_current_context()
        named = read_sources(inputs.sources) if inputs.sources else {}
        words_of_unit = absolute_words(context.meta[ARGUMENTS], context.command, named)
        if any(spec.live for spec in specs) and inputs.gives_up_early:
            words_of_unit.insert(0, "--wait")  # at boot a camera or network may come up after the service
        print_unit(words_of_unit)
        return 0
    with Classifier.load(
        bundle,
        prompt=prompt,
        backend=backend,
        device=device,
        threads=threads,
        engine_dir=engine_dir,
        rebuild_engines=rebuild_engines,
        cache_bytes=text_cache_mb << 20,
        shortlist=shortlist,
        batch=inputs.batch,
    ) as classifier:
        if threshold is not None:
            classifier.threshold = threshold
        pipeline = open_pipeline(specs, classifier, files, labels, inputs, prompt or bundle / PROMPT)
        counted = plural(len(pipeline.labels()), "label")
        _LOGGER.info("%s: %s, %s", bundle, classifier.description, counted)
        if pipeline.run(open_sinks(outputs, secrets, pipeline)):
            return 0
        never = [each for each in pipeline.health() if each.state == "dead" and each.restarts and not each.frames]
        if never and inputs.gives_up_early:
            _LOGGER.info("--wait waits for cameras and streams that are not there yet")
        return 1


if __name__ == "__main__":
    main()
