"""attri-run: classify images, videos, cameras and streams with a bundle."""

from __future__ import annotations

import logging

import click

from attri.runtime._util.wording import plural
from attri.runtime.bundle import PROMPT
from attri.runtime.cli.command import ARGUMENTS, ENGINE, Command, option
from attri.runtime.cli.follow import Follow, follow_options, followed, hand_over
from attri.runtime.cli.model_options import Model, model_options
from attri.runtime.cli.sink_options import Outputs, output_options
from attri.runtime.cli.sources.options import Inputs, input_options
from attri.runtime.engines.select import EngineOptions

_LOGGER = logging.getLogger("attri")


@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="SOURCE...")
@model_options
@option(
    ENGINE,
    "--bench",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="Print what this machine makes of 1, 2, 4 and 8 modelled cameras, so long each, and what limits it.",
)
@input_options
@output_options
@follow_options
@click.version_option(package_name="attri")
def main(
    words: tuple[str, ...],
    model: Model,
    bench: float | None,
    inputs: Inputs,
    outputs: Outputs,
    following: Follow,
) -> int:
    """Classify SOURCEs with a bundle.

    A SOURCE is an image, a folder, a quoted glob, a video, camera0, camera:NAME, /dev/v4l/by-id/..., csi://0, rtsp://,
    http://, frigate://, gst:PIPELINE, - for JPEGs on standard input, or a name from the --sources file.
    """
    from attri.runtime.classifier import Classifier
    from attri.runtime.cli.batch_options import choose_max_batch
    from attri.runtime.cli.sinks import check_sinks, open_sinks, source_opener
    from attri.runtime.cli.sources.checks import check_compare, check_explain, check_frigate, check_regions
    from attri.runtime.cli.sources.find import find_inputs, read_inputs
    from attri.runtime.cli.sources.pipeline import open_pipeline
    from attri.runtime.cli.sources.plans import CommandPlans
    from attri.runtime.cli.sources.tasks import check_common
    from attri.runtime.prompt_file.training_images import NOT_KEPT

    model.check_topk(outputs.topk)
    model = following.bundle_of(model)
    if bench is not None:
        from attri.runtime.cli.bench import check_bench, run_bench

        check_bench(click.get_current_context())

    def load(cache_bytes: int) -> Classifier:
        return Classifier.load(model.bundle, **model.arguments | {"cache_bytes": cache_bytes})

    if bench is not None:
        run_bench(load, model.labels, inputs.max_batch, model.threads, bench)
        return 0
    if following.follow is not None and followed() is None and not outputs.install_service:
        typed = click.get_current_context().meta[ARGUMENTS]
        hand_over(following, model, inputs.template, outputs, typed, find_inputs(words, inputs))
    specs, files = read_inputs(words, inputs, model.labels)  # before anything that takes long
    check_common(specs, model.labels, model.prompt, inputs.template, model.threshold, model.independent)
    check_frigate(specs, outputs.mqtt)
    secrets = check_sinks(outputs, tasks=any(spec.tasks for spec in specs))
    if outputs.compare:
        check_compare(specs, inputs)
    if outputs.collect_regions_only:
        check_regions(specs)
    if outputs.explain:
        check_explain(specs)
    if outputs.install_service:
        from attri.runtime.capture.sources_file import read_sources
        from attri.runtime.cli.service.install import absolute_words, check_service, print_unit

        request = EngineOptions(model.backend, model.device, model.threads, model.engine_dir, model.rebuild_engines)
        check_service(specs, files, model.labels, model.bundle, request, inputs)
        context = click.get_current_context()
        named = read_sources(inputs.sources) if inputs.sources else {}
        words_of_unit = absolute_words(context.meta[ARGUMENTS], context.command, named)
        if any(spec.retried for spec in specs) and inputs.gives_up_early:
            words_of_unit.insert(0, "--wait")  # at boot a camera or network may come up after the service
        print_unit(words_of_unit)
        return 0
    with load(model.text_cache_mb << 20) as classifier:
        if outputs.explain:
            classifier.require_explanations()
        if outputs.why and classifier.prompt.training_images is None:
            _LOGGER.info("--why names no training images: %s", NOT_KEPT)
        if model.threshold is not None:
            classifier.threshold = model.threshold
        more = bool(inputs.sources or secrets.serve_token)
        max_batch, why = choose_max_batch(specs, classifier, inputs.max_batch, model.threads, more_may_come=more)
        prompt, opener = model.prompt or model.bundle / PROMPT, source_opener(outputs, secrets)
        pipeline = open_pipeline(specs, classifier, files, model.labels, inputs, prompt, max_batch, opener)
        if not outputs.compare:
            regions_only = outputs.collect_regions_only
            known = (words, inputs, model.labels, prompt, files, classifier, specs, regions_only)
            pipeline.follow_sources(CommandPlans(*known))
        counted = plural(len(pipeline.labels()), "label")
        _LOGGER.info("%s: %s, %s", model.bundle, classifier.description, counted)
        if why:
            _LOGGER.info(why)
        if pipeline.run(open_sinks(outputs, secrets, pipeline, frigate=any(spec.kind == "frigate" for spec in specs))):
            return 0
        never = [each for each in pipeline.health() if each.state == "dead" and each.restarts and not each.frames]
        if never and inputs.gives_up_early:
            _LOGGER.info("--wait waits for cameras and streams that are not there yet")
        return 1


if __name__ == "__main__":
    main()
