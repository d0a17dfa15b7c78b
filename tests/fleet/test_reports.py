"""Reports through a real broker: what an operator sees of a fleet, and a wave that halts by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import SMALL, make_repository, pull_to, push_files, take_over
from support.peers import Mosquitto, free_port, real

from attri.fleet.cli.bundle import main
from attri.fleet.cli.reports import table
from attri.fleet.device.store import open_store
from attri.fleet.device.update import rollback
from attri.fleet.reports import read_reports, send_report, share_of
from attri.fleet.repository.repository import Repository
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.errors import FailedError, RefusedError

BAD = {**SMALL, "prompt.attri": b"bad"}
NEW = {**SMALL, "prompt.attri": b"new"}
NAMES = [f"gate-{number}" for number in range(20)]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def broker(mosquitto: Mosquitto) -> Broker:
    return Broker("127.0.0.1", mosquitto.port)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)), prog_name="attri-bundle")
    return int(stop.value.code or 0)


def update(folder: Path, repository: Repository, broker: Broker) -> None:
    """All devices ask once; what is bad goes back on each that gets it."""
    for name in NAMES:
        store = folder / name
        try:
            if pull_to(store, repository.folder, name=name):
                take_over(store)
        except RefusedError:
            pass
        with open_store(store) as opened:
            current = opened.state.current
            if current and (opened.bundle(current) / "prompt.attri").read_bytes() == b"bad":
                rollback(opened, "it sees ghosts")
            send_report(broker, name, opened.state.report())


@real
@pytest.mark.stress
def test_twenty_devices_update_in_waves_and_a_bad_one_is_revoked_before_it_reaches_the_rest(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTRI_KEYS_PASSPHRASE", "secret")
    repository = make_repository(tmp_path / "repo")
    publish = ("--repo", tmp_path / "repo", "--keys", tmp_path / "keys")
    look = ("--mqtt", broker.address, "--max-failed", "5%")
    push_files(repository)
    update(tmp_path, repository, broker)
    push_files(repository, NEW, wave=30.0)
    assert run("promote", *publish, *look) == 1  # nobody has it yet
    assert "0 committed, 0 failed" in capsys.readouterr().err
    update(tmp_path, repository, broker)
    first = [content_of(tmp_path / name) for name in NAMES].count(b"new")
    assert 0 < first < 20
    assert run("promote", *publish, *look, "--least", 2) == 0
    update(tmp_path, repository, broker)
    assert {content_of(tmp_path / name) for name in NAMES} == {b"new"}

    push_files(repository, BAD, wave=30.0)
    update(tmp_path, repository, broker)
    capsys.readouterr()
    assert run("promote", *publish, *look) == 4
    said = capsys.readouterr()
    assert "more than 5% failed, it was revoked" in said.err
    assert repository.channel("stable").candidate is None
    update(tmp_path, repository, broker)
    assert {content_of(tmp_path / name) for name in NAMES} == {b"new"}

    assert run("devices", "--mqtt", broker.address) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert "it sees ghosts" in lines[1]  # what failed comes first
    assert "rolled back" in lines[-1]


def content_of(store: Path) -> bytes:
    return (store / "current" / "prompt.attri").read_bytes()


@real
def test_a_report_stays_and_the_last_one_counts(broker: Broker) -> None:
    assert read_reports(broker) == []
    for state in ("fetched", "committed"):
        send_report(broker, "a/b +#", {"runs": "1-abc", "update": {"release": "1-abc", "state": state}})
    (report,) = read_reports(broker)
    assert report["device"] == "a/b +#"
    assert report["update"]["state"] == "committed"


def test_a_broker_that_is_not_there_does_no_harm_to_an_update(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker("127.0.0.1", free_port())
    with caplog.at_level(logging.WARNING, "attri"):
        send_report(broker, "gate", {})
    assert "the report could not be sent" in caplog.text
    with pytest.raises(FailedError, match="mqtt://127"):
        read_reports(broker)


def test_the_share_of_devices_that_failed(repository: Repository) -> None:
    release = repository.channel("stable").releases[0]

    def report(runs: str | None, state: str | None) -> dict[str, object]:
        return {"runs": runs, "update": state and {"release": release.name, "state": state}}

    states = ["committed", "committed", "trying", "fetched", "refused", "rolled back", None]
    share = share_of(release, [report(None, state) for state in states])
    assert (share.committed, share.failed, share.waiting) == (2, 2, 2)
    assert share.percent_failed == 50
    later = {"runs": release.name, "update": {"release": "9-other", "state": "refused"}}
    assert share_of(release, [later]).committed == 1  # it refused another one since
    assert share_of(release, []).percent_failed == 0


def test_the_table_says_all_in_one_line_a_device() -> None:
    now = 1_000_000.0
    reports = [
        {
            "device": "gate",
            "time": now - 5,
            "runs": "3-abc",
            "update": {"release": "3-abc", "state": "committed", "figures": {"shadow": {"agreement": 0.957}}},
        },
        {
            "device": "yard",
            "time": now - 7200,
            "runs": "2-def",
            "update": {"release": "3-abc", "state": "refused", "reason": "3 of 9 golden images are right"},
        },
        {"device": "new\x1b[2J", "time": now - 90, "runs": None, "update": None, "error": "no route"},
    ]
    assert table(reports, now) == [
        "device      runs     update  state      agrees  seen   why",
        "yard        2-def    3-abc   refused            2 h    3 of 9 golden images are right",
        "gate        3-abc    3-abc   committed  96%     5 s",
        "new\\x1b[2J  nothing                             2 min  no route",
        "3 devices: 1 never updated, 1 committed, 1 refused",
    ]
    assert table([], now)[-1] == "no devices"


def test_reports_need_a_broker(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("devices") == 2
    assert run("promote", "--mqtt", "mqtt://host") == 2
    assert run("update", "repo", "--mqtt-password-file", "x") == 2
    assert "--mqtt" in capsys.readouterr().err
