"""The options of outputs, and the whole command with every sink at once."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.peers import HookServer, Listener, Mosquitto, free_port, real, wait_for
from support.results import FakeControl

from attri.runtime.cli.command import Command
from attri.runtime.cli.follow import FOLLOWED
from attri.runtime.cli.run import main
from attri.runtime.cli.sink_options import OPTIONS, Outputs, flag, output_options
from attri.runtime.cli.sinks import check_sinks, open_sinks
from attri.runtime.collection.folder import Collection
from attri.runtime.deliver.collect.sink import CollectSink
from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.deliver.sink import Sink
from attri.runtime.deliver.updates.exchange import Exchange
from attri.runtime.deliver.webhook import signature
from attri.runtime.errors import FailedError, UsageError


class Finished(NamedTuple):
    code: str | int | None
    out: str
    err: str


def open_checked(outputs: Outputs) -> list[Sink]:
    return open_sinks(outputs, check_sinks(outputs), FakeControl())


@pytest.fixture
def attri_run(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Finished]]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    labels = tmp_path / "labels.txt"
    labels.write_text("red apple\nbird\nhouse\n")

    def run(*words: object) -> Finished:
        common = ["--bundle", str(bundle), "--labels", str(labels), "--threads", "1"]
        with pytest.raises(SystemExit) as stop:
            main([*map(str, words), *common], prog_name="attri-run")
        return Finished(stop.value.code, *capfd.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_what_follows_updates_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, hook = Exchange(tmp_path / "live"), HookServer()
    monkeypatch.setenv("ATTRI_WEBHOOK_SECRET", "x")
    monkeypatch.setenv(FOLLOWED, str(exchange.folder))
    states = ({"release": "2-b", "state": state, "time": 1.0} for state in ("fetched", "checked"))
    exchange.tell_update({"runs": "1-a", "update": next(states)})
    sinks = open_checked(Outputs(webhook=hook.url, spool=tmp_path / "spool", serve="127.0.0.1:0", quiet=True))
    exchange.tell_update({"runs": "1-a", "update": next(states)})
    wait_for(lambda: hook.requests, 60)
    for sink in sinks:
        sink.close()
    assert json.loads(hook.requests[0][1])["update"]["state"] == "checked"
    (metrics,) = [sink for sink in sinks if isinstance(sink, MetricsSink)]
    assert b'attri_bundle_info{digest="a",serial="1"} 1.0' in metrics.render()[0]


@real
def test_every_sink_at_once(attri_run, image_files: list[Path], tmp_path: Path, monkeypatch) -> None:
    broker, hook = Mosquitto(tmp_path), HookServer()
    listener = Listener(broker.port)
    monkeypatch.setenv("ATTRI_WEBHOOK_SECRET", "x")
    monkeypatch.setenv("ATTRI_SERVE_TOKEN", "y")
    words = (
        f"--json --topk 2 --csv {tmp_path}/a.csv --save-video {tmp_path}/a.mp4 --snapshots {tmp_path}/shots --log-json"
    )
    words += f" --mqtt mqtt://127.0.0.1:{broker.port} --mqtt-topic t --home-assistant --spool {tmp_path}/spool"
    words += f" --log-json --webhook {hook.url} --serve 127.0.0.1:0 --metrics {free_port()}"
    result = attri_run(*image_files[:5], *words.split())
    try:
        assert result.code == 0, result.err
        objects = [json.loads(line) for line in result.out.splitlines()]
        assert [each["source"] for each in objects] == [str(path) for path in image_files[:5]]
        with (tmp_path / "a.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["label"] for row in rows] == [each["label"] for each in objects]
        with av.open(str(tmp_path / "a.mp4")) as video:
            assert len(list(video.decode(video=0))) == 5
        events = [each for each, row in zip(objects, rows, strict=True) if row["changed"] == "1"]
        assert len(events) >= 1
        assert len(list((tmp_path / "shots").iterdir())) == len(events)
        wait_for(lambda: len(hook.requests) == len(events))
        sent = [json.loads(body) for _, body in hook.requests]
        assert [each["source"] for each in sent] == [each["source"] for each in events]
        topics = {topic for topic, *_ in listener.messages}
        assert "t/status" in topics
        assert any("homeassistant/sensor/" in topic for topic in topics)
        assert len(listener.of("t/images")) == len(events)
        lines = [json.loads(line) for line in result.err.splitlines()]
        assert [line["message"].split()[0] for line in lines].count("preview:") == 1
    finally:
        listener.close()
        broker.kill()
        hook.close()


def test_regions_are_collected_within_caps_and_counted(attri_run, image_files: list[Path], tmp_path: Path) -> None:
    words = f"--quiet --collect {tmp_path}/new --collect-margin 1 --collect-per-minute 3 --collect-control 0"
    result = attri_run(*image_files[:5], "--roi", "2,3,20,10", *words.split(), "--collect-regions-only")
    assert result.code == 0, result.err
    assert re.search(r"new: collected 2 images \(2 unsure, \d novel\); not collected: 3 by minute", result.err)
    for item in Collection(tmp_path / "new").items():
        assert (item.size, item.region) == ((20, 10), (2, 3, 20, 10))
        assert len(item.prompt) == 64
        assert item.feature is not None
        assert item.label in ("red apple", "bird", "house")
    sinks = open_checked(Outputs(collect=tmp_path / "new", metrics=f"127.0.0.1:{free_port()}", quiet=True))
    collecting, metrics = sinks
    assert isinstance(collecting, CollectSink)
    assert isinstance(metrics, MetricsSink)
    assert metrics.tally is collecting.tally
    for sink in sinks:
        sink.close()


def test_a_whole_frame_that_must_not_be_kept_is_told_before_anything_starts(attri_run, image_files, tmp_path) -> None:
    result = attri_run(image_files[0], "--collect", tmp_path / "new", "--collect-regions-only")
    assert result.code == 2
    assert "no source has a region" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--collect-margin 0", "--collect-margin is for --collect"),
        ("--collect-regions-only", "--collect-regions-only is for --collect"),
        ("--why", "--why is for --json"),
        ("--mqtt-ca x", "--mqtt-ca is for --mqtt"),
        ("--home-assistant", "--home-assistant is for --mqtt"),
        ("--snapshots-keep 3", "--snapshots-keep is for --snapshots"),
        ("--webhook-secret-file x", "--webhook-secret-file is for --webhook"),
        ("--serve-token-file x", "--serve-token-file is for --serve"),
        ("--serve-allowed-host x", "--serve-allowed-host is for --serve"),
        ("--spool x", "--spool is for --mqtt and --webhook"),
        ("--json --quiet", "contradict"),
        ("--mqtt mqtt://h --mqtt-cert x", "needs its --mqtt-key"),
        ("--mqtt mqtt://ann:s3cret@h", "no password in the URL"),
        ("--webhook https://h/s3cret", "ATTRI_WEBHOOK_SECRET"),
        ("--webhook http://[::1", "takes an http"),
        ("--webhook http://h:x/", "takes an http"),
        ("--mqtt mqtt://[::1", "an MQTT broker is mqtt"),
        ("--serve nowhere", "HOST:PORT"),
        ("--serve 0.0.0.0:0", "a token of 16 or more is needed"),
        ("--serve 99999", "99999: there is no port 99999, the highest is 65535"),
        ("--metrics h:65536", "h:65536: there is no port 65536"),
        ("--metrics 8080 --serve 8080", "--metrics and --serve both ask for port 8080"),
        ("--metrics 8080 --serve 0.0.0.0:8080", "both ask for port 8080"),
        ("--csv gone/x.csv", "gone/x.csv: "),
        ("--save-video x.avi", "x.avi: name a file"),
        ("--snapshots /dev/null/x", "/dev/null/x: "),
    ],
)
def test_outputs_that_cannot_be(words: str, complaint: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("ATTRI_WEBHOOK_SECRET", "ATTRI_SERVE_TOKEN", "ATTRI_MQTT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)

    @click.command()
    @output_options
    def command(outputs: Outputs) -> None:
        open_checked(outputs)

    stopped = CliRunner().invoke(command, words.split())
    assert isinstance(stopped.exception, UsageError)
    assert complaint in str(stopped.exception)
    assert "s3cret" not in str(stopped.exception)


@pytest.mark.parametrize("option", ["--serve", "--metrics"])
@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("127.0.0.1", "the port is in use: stop the other program"),
        ("203.0.113.1", "this machine has no such address, or not yet"),
        ("no-such-host.invalid", "the name leads nowhere: "),
    ],
)
def test_an_address_that_may_be_had_later_is_exit_1(
    option: str, host: str, complaint: str, attri_run: Callable[..., Finished], tmp_path: Path
) -> None:
    """So that systemd tries again (RestartPreventExitStatus=2); and told before a bundle is so much as looked at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"{host}:{other.getsockname()[1]}"
        result = attri_run("camera0", option, address, "--bundle", tmp_path / "gone")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: {address}: {complaint}")
    assert len(result.err.splitlines()) == 1


def test_one_extra_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
        monkeypatch.setitem(sys.modules, module, None)
    stopped = CliRunner().invoke(click.command()(output_options(lambda outputs: None)), ["--serve", "0"])
    wanted = "starlette, uvicorn, python-multipart, prometheus-client are not installed: pip install 'attri[serve]'"
    assert str(stopped.exception) == wanted


def test_what_was_opened_is_closed_when_the_next_fails(tmp_path: Path) -> None:
    port = free_port()
    outputs = Outputs(metrics=str(port), serve="203.0.113.1:1", csv=tmp_path / "a.csv")
    with pytest.raises(FailedError, match="203"):
        open_checked(outputs)
    with socket.create_server(("127.0.0.1", port)):  # nobody holds it any more
        pass


def test_no_option_and_no_default_gets_lost() -> None:
    @click.command()
    @output_options
    def command(outputs: Outputs) -> None:
        assert outputs == Outputs()

    assert CliRunner().invoke(command, [], env={"ATTRI_MQTT": "", "ATTRI_WEBHOOK": ""}).exception is None
    given = {option.name: (option.opts, option.help) for option in command.params}
    assert given == {name: ([flag(name)], about.help) for name, about in OPTIONS.items()}


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("paho", "--mqtt mqtt://h", "mqtt"),
        ("prometheus_client", "--metrics 0", "metrics"),
        ("uvicorn", "--serve 0", "serve"),
        ("starlette.applications", "--serve 0", "serve"),
        ("av", "--save-video x.mp4", "camera"),
    ],
)
def test_a_missing_extra_is_named(module: str, words: str, extra: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    @click.command()
    @output_options
    def command(outputs: Outputs) -> None:
        open_checked(outputs)

    stopped = CliRunner().invoke(command, [*words.split(), *(["--spool", "s"] if "mqtt" in words else [])])
    assert isinstance(stopped.exception, FailedError)
    assert f"pip install 'attri[{extra}]'" in str(stopped.exception)


def test_a_command_of_ours_takes_the_options() -> None:
    @click.command(cls=Command)
    @output_options
    def command(outputs: Outputs) -> int:
        raise AssertionError

    with pytest.raises(SystemExit) as stop:
        command.main(["--mqt", "x"])
    assert stop.value.code == 2


def test_more_clips_than_files_may_be_open_are_all_saved(attri_run, tmp_path: Path) -> None:
    clips = [tmp_path / f"{number}.mp4" for number in range(66)]
    with av.open(str(clips[0]), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in (0, 255):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for clip in clips[1:]:
        clip.write_bytes(clips[0].read_bytes())
    (tmp_path / "saved").mkdir()
    result = attri_run(tmp_path / "*.mp4", "--quiet", "--save-video", tmp_path / "saved" / "{source}.mp4")
    assert result.code == 0, result.err
    saved = list((tmp_path / "saved").iterdir())
    assert len(saved) == len(clips)
    for file in saved:
        with av.open(str(file)) as video:
            assert len(list(video.decode(video=0))) == 2


def test_metrics_of_the_command_are_its_own(tmp_path: Path) -> None:
    port = free_port()
    sinks = open_checked(Outputs(metrics=f"127.0.0.1:{port}", quiet=True))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert b"attri_source_state" in answer.read()
    for sink in sinks:
        sink.close()
    assert [sink.name for sink in sinks] == ["metrics"]
    assert not os.environ.get("NOTIFY_SOCKET")


def test_a_signal_ends_it_in_time_and_leaves_files_that_play(bundle, image_files, tmp_path: Path) -> None:
    """With nobody at the other end of anything: the promise is 2 s, and a busy machine gets some more."""
    words = f"- --bundle {bundle} --threads 1 --save-video {tmp_path}/a.mp4 --serve 0 --quiet --spool {tmp_path}/spool"
    words += " --mqtt mqtt://127.0.0.1:1 --webhook http://127.0.0.1:1/"
    run = subprocess.Popen(
        [sys.executable, "-m", "attri.runtime.cli.run", *words.split()],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"ATTRI_WEBHOOK_SECRET": "x", "OMP_NUM_THREADS": "1"},
    )
    with run:
        assert run.stdin is not None
        for file in image_files[:5]:
            image = io.BytesIO()
            Image.open(file).convert("RGB").save(image, "JPEG")
            run.stdin.write(image.getvalue())
        run.stdin.flush()
        wait_for(lambda: (tmp_path / "a.mp4").exists())
        time.sleep(0.5)
        run.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert run.stderr is not None
        err = run.stderr.read().decode()
    assert time.monotonic() - start < 20, err
    assert run.returncode == 0, err
    late = re.findall("^(.*) did not end in time", err, re.MULTILINE)
    assert set(late) <= {"-"}  # a read of standard input cannot be called back
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert 1 <= len(list(video.decode(video=0))) <= 5


def test_stdout_on_a_full_disk(bundle, image_files, tmp_path: Path) -> None:
    words = [*map(str, image_files[:3]), "--bundle", str(bundle), "--threads", "1", "--csv", str(tmp_path / "a.csv")]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "attri.runtime.cli.run", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert run.returncode == 1
    complaints = [line for line in run.stderr.splitlines() if "No space left on device" in line]
    assert 1 <= len(complaints) <= 2  # by the sink, and for what is left at the end
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4  # the others go on


def test_the_page_for_operators_names_what_there_is() -> None:
    text = (Path(__file__).parents[3] / "docs" / "howto" / "operate.md").read_text()
    known = {name for parameter in main.params for name in parameter.opts}
    foreign = {"--data-binary", "--inplace", "--now", "--remove-retained", "--retained-only"}  # of curl, rsync, ...
    assert set(re.findall(r"--[a-z][a-z-]+", text)) - known == foreign
    for kind in ("X-Attri-Signature", "X-Attri-Timestamp", "ATTRI_MQTT_PASSWORD", "ATTRI_SERVE_TOKEN"):
        assert kind in text
    (recipe,) = re.findall(r"^    import hashlib, hmac\n((?:    .*\n)+)", text, re.MULTILINE)
    scope = {"secret": b"s", "timestamp": b"1", "body": b"{}", "signature": signature("s", "1", b"{}")}
    exec("import hashlib, hmac\n" + recipe.replace("    ", ""), scope)
    assert scope["right"] is True
