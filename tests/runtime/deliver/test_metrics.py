"""What Prometheus scrapes, read by its own parser."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.results import NOW, FakeControl, make_result

from attri.runtime.deliver.collect.sink import Tally
from attri.runtime.deliver.metrics import MetricsServer, MetricsSink
from attri.runtime.deliver.updates.exchange import Exchange
from attri.runtime.errors import FailedError


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values, the source's first) -> value"""
    found = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return {
        (each.name, *(each.labels[key] for key in sorted(each.labels, key=lambda key: key != "source"))): each.value
        for each in found
    }


def test_what_a_scrape_says() -> None:
    metrics = MetricsServer(FakeControl("camera0", 'odd "name"\\\n'), ("127.0.0.1", 0))
    for frame in range(4):
        metrics.write(make_result(frame=frame, label="かりんご" if frame else None, changed=frame < 2, age_ms=41))
    metrics.write(make_result("shots/a.png", origin="shots"))
    metrics.write(make_result("shots/b.png", origin="shots"))
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as response:
        found = samples(response.read().decode())
    metrics.close()
    assert found["attri_results_total", "camera0", "かりんご"] == 3
    assert found["attri_results_total", "camera0", "(none of the labels)"] == 1
    assert found["attri_results_total", "shots", "red apple"] == 2
    assert found["attri_events_total", "camera0", "かりんご"] == 1
    assert found["attri_score", "camera0"] == 0.75
    assert found["attri_frame_age_seconds_sum", "camera0"] == pytest.approx(4 * 0.041)
    assert found["attri_frame_age_seconds_bucket", "camera0", "0.05"] == 4
    assert found["attri_frame_age_seconds_bucket", "camera0", "0.02"] == 0
    assert found["attri_stage_seconds_sum", "vision"] == pytest.approx(6 * 0.020)
    assert found["attri_text_cache_total", "hit"] == 6
    assert found["attri_source_state", "camera0", "live"] == 1
    assert found["attri_source_state", "camera0", "dead"] == 0
    assert found["attri_source_frames_total", 'odd "name"\\\n'] == 120
    assert found["attri_source_dropped_frames_total", "camera0"] == 3
    assert found["attri_source_waiting_frames", "camera0"] == 0
    assert found["attri_source_restarts_total", "camera0"] == 1
    assert found["attri_source_last_frame_timestamp_seconds", "camera0"] == NOW
    assert found["attri_batches_total",] == 30
    assert found["attri_batch_frames_total",] / found["attri_batches_total",] / found["attri_batch_limit",] == 0.75
    assert found["attri_time_seconds_total", "vision"] == 6.0
    assert found["attri_time_seconds_total", "idle"] == 2.0
    assert found["process_open_fds",] > 0


def test_what_runs_and_how_far_its_update_is(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    metrics = MetricsSink(FakeControl(), exchange)
    assert "bundle" not in metrics.render()[0].decode()  # nothing is known yet
    exchange.tell_update({"runs": "3-1bd8", "update": {"release": "4-c6f4", "state": "refused", "time": NOW}})
    found = samples(metrics.render()[0].decode())
    assert found["attri_bundle_info", "1bd8", "3"] == 1
    assert found["attri_update_info", "4-c6f4", "refused"] == 1
    assert found["attri_update_timestamp_seconds",] == NOW


def test_unchanged_results_cost_nothing_and_are_counted() -> None:
    metrics = MetricsSink(FakeControl())
    metrics.write(make_result())
    for frame in range(1, 4):
        metrics.write(make_result(frame=frame, unchanged=True))
    found = samples(metrics.render()[0].decode())
    assert found["attri_unchanged_total", "camera0"] == 3
    assert found["attri_results_total", "camera0", "red apple"] == 4
    assert found["attri_stage_seconds_count", "vision"] == found["attri_text_cache_total", "hit"] == 1


def test_what_is_collected_is_counted_by_reason() -> None:
    metrics = MetricsSink(FakeControl())
    assert b"attri_collected_total" not in metrics.render()[0]
    metrics.tally = Tally()
    metrics.tally.take(("unsure", "novel"))
    metrics.tally.refuse("minute")
    found = samples(metrics.render()[0].decode())
    assert found["attri_collected_total", "unsure"] == found["attri_collected_total", "novel"] == 1
    assert found["attri_collected_total", "flip"] == found["attri_not_collected_total", "day"] == 0
    assert found["attri_not_collected_total", "minute"] == 1


def test_labels_that_are_edited_for_months_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attri.runtime.deliver.metrics.SERIES", 3)
    metrics = MetricsSink(FakeControl())
    for number in range(9):
        metrics.write(make_result(label=f"label {number}"))
    metrics.write(make_result("\udcff", label="label 1"))
    found = samples(metrics.render()[0].decode())
    assert len([key for key in found if key[0] == "attri_results_total"]) == 5
    assert found["attri_results_total", "camera0", "(other)"] == 6
    assert found["attri_results_total", "?", "(other)"] == 1
    assert found["attri_score", "?"] == 0.75  # another camera is seen all the same


def test_an_address_that_is_taken() -> None:
    first = MetricsServer(FakeControl(), ("127.0.0.1", 0))
    with pytest.raises(FailedError, match="127"):
        MetricsServer(FakeControl(), ("127.0.0.1", first.port))
    first.close()
