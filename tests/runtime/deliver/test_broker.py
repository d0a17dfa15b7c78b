"""Addresses of brokers and prefixes of topics: what they say, and which are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.results import FakeControl

from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.deliver.mqtt.sink import MqttSink
from attri.runtime.deliver.spool import Spool
from attri.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mqtt://ann:s3cret@host", "no password in the URL"),
        ("http://host", "broker is mqtt://"),
        ("host:1883", "broker is mqtt://"),
        ("mqtt://[::1", "broker is mqtt://"),
        ("mqtt://host:99999", "broker is mqtt://"),
        ("mqtt://host/topic", "broker is mqtt://"),
        ("mqtt://host:0", "broker is mqtt://"),
        ("mqtt://host#topic", "broker is mqtt://"),
        ("mqtt://ann:s3cret/more@host", "no password in the URL"),
        ("mqtt:/ann:s3cret@host", "no password in the URL"),
        ("ann:s3cret@host", "no password in the URL"),
        ("mqtt://s3cret\N{ACCOUNT OF}@host", "broker is mqtt://"),
    ],
)
def test_urls_that_are_none(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Broker.parse(url)
    assert "s3cret" not in str(caught.value)


def test_parts_of_a_url() -> None:
    assert Broker.parse("mqtts://ann@h", "x") == Broker("h", 8883, True, "ann", "x")
    assert "x" not in Broker.parse("mqtts://ann@h", "x").address
    assert Broker.parse("mqtt://ann%40plant@h").user == "ann@plant"
    with pytest.raises(UsageError, match="needs a user"):
        Broker.parse("mqtt://h", "x")
    with pytest.raises(UsageError, match="certificates are for a broker at mqtts://"):
        Broker.parse("mqtt://h", ca=Path("ca.pem"))


@pytest.mark.parametrize("prefix", ["", "/", "a/+", "#", "a\nb"])
def test_prefixes_that_are_none(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MQTT topic"):
        MqttSink(Broker("h", 1), prefix, lambda: Spool(tmp_path / "s"), FakeControl())
