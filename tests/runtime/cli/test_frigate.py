"""`attri-run frigate://`: the command between a stand-in for Frigate and a real Mosquitto, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from support.frigate import Frigate
from support.peers import Listener, Mosquitto, real, wait_for

from attri.runtime.cli.run import main


@pytest.fixture
def frigate(tmp_path: Path) -> Iterator[Frigate]:
    broker = Mosquitto(tmp_path)
    frigate = Frigate(broker.port)
    yield frigate
    frigate.close()
    broker.kill()


@real
def test_sub_labels_by_the_command_alone(
    frigate: Frigate, bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    words = [f"frigate://127.0.0.1:{frigate.port}?object=person", "--mqtt", f"mqtt://127.0.0.1:{frigate.broker}"]
    words += ["--mqtt-topic", "attri/x", "--spool", str(tmp_path), "--bundle", str(bundle), "--threads", "1", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "attri.runtime.cli.run", *words]
    listener = Listener(frigate.broker)
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        wait_for(lambda: [each for each in listener.messages if each[1] == b"live"], 60)
        event = frigate.appears(Image.open(image_files[0]))
        wait_for(lambda: frigate.posts)
        wait_for(
            lambda: [each for each in listener.messages if event.encode() in each[1] and each[0].startswith("attri/x")]
        )
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=20)
    finally:
        run.kill()
        listener.close()
    assert run.returncode == 0, err
    (result,) = map(json.loads, out.splitlines())
    assert result["source"] == f"frigate://127.0.0.1:{frigate.port}/front_door/{event}"
    assert frigate.posts == [(event, {"subLabel": result["label"], "subLabelScore": round(result["score"], 4)})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frigate://nvr"], "give the broker that Frigate publishes to, --mqtt"),
        (["frigate://nvr", "--mqtt", "mqtt://b", "--task", "a=", "--task", "b="], "so one task is asked, and not 2"),
        (["frigate://nvr", "--mqtt", "mqtt://b", "--roi", "0,0,8,8"], "--roi: none of the sources takes it"),
        (["frigate://nvr", "--mqtt", "mqtt://b", "--roi", "a=0,0,8,8"], "--roi: none of the sources takes it"),
        (["frigate://nvr", "--mqtt", "mqtt://b", "--smooth", "1"], "--smooth: none of the sources takes it"),
        (["frigate://nvr", "--mqtt", "mqtt://b", "--freeze-timeout", "1"], "--freeze-timeout: none of the sources"),
        (["frigate://nvr?person", "--mqtt", "mqtt://b"], "person=, which is not known"),
        (["gate", "--mqtt", "mqtt://b", "--sources", "regions.toml"], "gate takes no regions"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("regions.toml").write_text('[gate]\nuri = "frigate://nvr"\n[gate.regions.door]\nroi = [0, 0, 8, 8]\n')
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
