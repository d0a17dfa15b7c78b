"""The Prometheus metrics sink: counters and histograms of results, and gauges of the sources' health."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

from attri.runtime._util.net import refusal
from attri.runtime._util.redact import redact
from attri.runtime.capture.base import SourceState
from attri.runtime.collection.item import REASONS
from attri.runtime.deliver.collect.caps import REFUSALS
from attri.runtime.deliver.format import NO_LABEL
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import MissingExtra

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from attri.runtime.deliver.collect.sink import Tally
    from attri.runtime.deliver.updates.exchange import Exchange

STATES: tuple[str, ...] = get_args(SourceState)
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
# Largest number of sources, tasks and labels together: labels can be edited for months, and series are never removed.
SERIES = 1000


class MetricsSink:
    """Keeps metrics in a registry of its own.

    | metric                                  | labels, meaning |
    |-----------------------------------------|-----------------|
    | attri_results_total, attri_events_total | source, decided label |
    | attri_score                             | source; of the last frame |
    | attri_frame_age_seconds                 | source; from capture to result |
    | attri_stage_seconds                     | preprocess, vision, text |
    | attri_text_cache_total                  | hit, miss |
    | attri_unchanged_total                   | source; results that were held by --motion |
    | attri_batches_total, _batch_frames_total | batches, and frames in them; attri_batch_limit: frames at most |
    | attri_time_seconds_total                | idle, preprocess, vision, text, deliver: the thread that classifies |
    | attri_collected_total                   | reason; images that --collect took |
    | attri_not_collected_total               | refused by: what kept one that was worth a look from being collected |
    | attri_source_*                          | source; state, frames, dropped, waiting, restarts, fps, last frame |
    | attri_bundle_info                       | serial, digest of the release that runs, where updates are followed |
    | attri_update_info, _timestamp_seconds   | release, state of the last update; when it got there |

    All images of a folder, a glob or --watch count for one source. Where sources have tasks, results, events and score
    have the label `task` too. Of independent labels each that holds counts. Stages and the cache count each task, with
    its share of preprocessing and vision.

    Args:
        control: The pipeline, for the health of the sources.

    Attributes:
        tally: Of the sink that collects images, if there is one.

    Raises:
        MissingExtra: prometheus-client is not installed.
    """

    name = "metrics"
    lossless = True
    takes: SinkFilter = "every_frame"

    def __init__(self, control: PipelineControl, updates: Exchange | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
        except ModuleNotFoundError as error:
            raise MissingExtra("prometheus_client") from error
        self._control, self._updates = control, updates
        self.tally: Tally | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)  # before the others: what it finds to be gone is not shown once more
        ProcessCollector(registry=self.registry)
        self._tasks = any(health.tasks for health in control.health())
        by_source = ("source",)
        by_task = ("source", "task") if self._tasks else by_source
        by_label = (*by_task, "label")
        own: dict[str, Any] = {"namespace": "attri", "registry": self.registry}
        Gauge("info", "Version.", ("version",), **own).labels(version("attri")).set(1)
        self._results = Counter("results", "Frames classified.", by_label, **own)
        self._events = Counter("events", "Changes of the decided label.", by_label, **own)
        self._score = Gauge("score", "Score of the last frame's decided label.", by_task, **own)
        self._age = Histogram("frame_age_seconds", "From capture to result.", by_source, buckets=_BUCKETS, **own)
        self._stage = Histogram("stage_seconds", "Time by stage.", ("stage",), buckets=_BUCKETS, **own)
        self._cache = Counter("text_cache", "Frames whose text features were known.", ("result",), **own)
        self._unchanged = Counter("unchanged", "Results of frames that show what the one before did.", by_source, **own)
        self._series: set[tuple[str, ...]] = set()
        self._seen: set[str] = set()  # sources that there are or were

    def write(self, result: FrameResult) -> None:
        """Count a result."""
        source = _text(result.origin)
        names = (source, result.task or "") if self._tasks else (source,)
        for label in result.decided or (NO_LABEL,):
            series = self._bounded(names, _text(label))
            self._results.labels(*series).inc()
            if result.changed:
                self._events.labels(*series).inc()
        self._score.labels(*names).set(result.score)
        self._age.labels(source).observe(result.age_ms / 1000)
        if result.unchanged:
            self._unchanged.labels(source).inc()
            return
        for stage in ("preprocess", "vision", "text"):
            self._stage.labels(stage).observe(result.prediction.latency_ms[stage] / 1000)
        self._cache.labels(result.prediction.cache).inc()

    def close(self) -> None:
        """Nothing is open."""

    def render(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterable[Metric]:
        """The health of the sources as metrics; the registry calls this for each scrape."""
        from prometheus_client.metrics_core import CounterMetricFamily as Counter
        from prometheus_client.metrics_core import GaugeMetricFamily as Gauge

        state = Gauge("attri_source_state", "1 for the state that it is in.", labels=("source", "state"))
        frames = Counter("attri_source_frames", "Frames that came.", labels=("source",))
        dropped = Counter("attri_source_dropped_frames", "Frames skipped for newer ones.", labels=("source",))
        waiting = Gauge("attri_source_waiting_frames", "Frames that wait for the model.", labels=("source",))
        restarts = Counter("attri_source_restarts", "Times it was opened again.", labels=("source",))
        fps = Gauge("attri_source_fps", "Results per second.", labels=("source",))
        last = Gauge("attri_source_last_frame_timestamp_seconds", "Unix time of the last frame.", labels=("source",))
        sources = self._control.health()
        self._forget_all_but({_text(health.source) for health in sources})
        for health in sources:
            source = [_text(health.source)]
            for each in STATES:
                state.add_metric([*source, each], health.state == each)
            frames.add_metric(source, health.frames)
            dropped.add_metric(source, health.dropped)
            waiting.add_metric(source, health.waiting)
            restarts.add_metric(source, health.restarts)
            fps.add_metric(source, health.fps)
            if health.last_frame is not None:
                last.add_metric(source, health.last_frame)
        measured = (self._of_load(), self._of_tally(), self._of_updates())
        return [state, frames, dropped, waiting, restarts, fps, last, *itertools.chain(*measured)]

    def _forget_all_but(self, sources: set[str]) -> None:
        """Drop the series of sources that were removed; a late result may have made one again."""
        self._seen |= sources
        for gone in self._seen - sources:
            for metric in (self._results, self._events, self._score, self._age, self._unchanged):
                metric.remove_by_labels({"source": gone})
            self._series = {series for series in self._series if series[0] != gone}

    def _of_load(self) -> Iterable[Metric]:
        """What the classifier does with its time, and how full its batches are."""
        from prometheus_client.metrics_core import CounterMetricFamily as Counter
        from prometheus_client.metrics_core import GaugeMetricFamily as Gauge

        load = self._control.load()
        spent = Counter("attri_time_seconds", "Time of the thread that classifies, by stage.", labels=("stage",))
        for stage, seconds in load.seconds.items():
            spent.add_metric([stage], seconds)
        yield Gauge("attri_batch_limit", "Frames of a batch, at most.", load.limit)
        yield Counter("attri_batches", "Batches that were classified.", load.batches)
        yield Counter("attri_batch_frames", "Frames, or regions of frames, in these batches.", load.frames)
        yield spent

    def _of_tally(self) -> Iterable[Metric]:
        """What was collected, and what was not."""
        from prometheus_client.metrics_core import CounterMetricFamily as Counter

        if self.tally is None:
            return
        collected = Counter("attri_collected", "Images that were collected, by reason.", labels=("reason",))
        refused = Counter("attri_not_collected", "Results worth a look that were not.", labels=("refused_by",))
        for reason in REASONS:
            collected.add_metric([reason], self.tally.collected[reason])
        for why in REFUSALS:
            refused.add_metric([why], self.tally.refused[why])
        yield from (collected, refused)

    def _of_updates(self) -> Iterable[Metric]:
        """Which release runs, and how far the last update is."""
        from prometheus_client.metrics_core import GaugeMetricFamily as Gauge

        told = {} if self._updates is None else self._updates.update()
        if runs := told.get("runs"):
            info = Gauge("attri_bundle_info", "Release that runs.", labels=("serial", "digest"))
            serial, _, digest = runs.partition("-")
            info.add_metric([serial, digest], 1)
            yield info
        if update := told.get("update"):
            info = Gauge("attri_update_info", "Last update of the bundle.", labels=("release", "state"))
            info.add_metric([update["release"], update["state"]], 1)
            yield info
            yield Gauge("attri_update_timestamp_seconds", "Unix time of its last step.", update["time"])

    def _bounded(self, names: tuple[str, ...], label: str) -> tuple[str, ...]:
        """These names and the label, or "(other)" in its place where there are too many."""
        series = (*names, label)
        if series not in self._series:
            if len(self._series) >= SERIES:
                return (*names, "(other)")
            self._series.add(series)
        return series


class MetricsServer(MetricsSink):
    """The metrics sink with an HTTP server of its own, at http://HOST:PORT/metrics.

    Args:
        control: The pipeline, for the health of the sources.
        address: Host and port; port 0 takes a free one.
        updates: What is known of updates; None where none are followed.

    Attributes:
        port: The port that the server listens on.

    Raises:
        FailedError: The address cannot be listened on, now.
        UsageError: Likewise, and not later either.
        MissingExtra: prometheus-client is not installed.
    """

    def __init__(self, control: PipelineControl, address: tuple[str, int], updates: Exchange | None = None) -> None:
        super().__init__(control, updates)
        from prometheus_client import start_http_server

        host, port = address
        try:
            self._server, self._thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise refusal(address, error) from error
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _text(value: str) -> str:
    """`value` as valid Unicode without credentials: names of files may hold bytes that are not UTF-8."""
    return redact(value.encode(errors="replace").decode())
