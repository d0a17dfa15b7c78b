"""frigate:// URIs: what they say, and which are none."""

from __future__ import annotations

import pytest

from attri.runtime.capture.frigate.address import FrigateAddress
from attri.runtime.capture.parse import find_source
from attri.runtime.errors import UsageError


def test_what_a_uri_says() -> None:
    assert FrigateAddress.parse("frigate://nvr") == FrigateAddress("http://nvr:5000")
    whole = FrigateAddress.parse("frigate://[::1]:80?camera=front_door,yard&object=person&topic=nvr/a")
    assert whole == FrigateAddress("http://[::1]:80", frozenset({"front_door", "yard"}), frozenset({"person"}), "nvr/a")


def test_a_login_has_a_port_of_its_own_and_tls() -> None:
    address = FrigateAddress.parse("frigate://ann:s3cret%40%2F@nvr?certificate=/etc/nvr.pem&object=car")
    assert (address.api, address.host, address.user) == ("https://nvr:8971", "nvr:8971", "ann")
    assert (address.password, address.certificate) == ("s3cret@/", "/etc/nvr.pem")
    assert "s3cret" not in repr(address)
    assert FrigateAddress.parse("frigate://ann:s3cret@nvr:80?tls=off").api == "http://nvr:80"


def test_which_objects_are_meant() -> None:
    address = FrigateAddress.parse("frigate://nvr?camera=yard&object=car,truck")
    assert address.wants("yard", "truck")
    assert not address.wants("yard", "person")
    assert not address.wants("street", "car")
    assert FrigateAddress.parse("frigate://nvr").wants("street", "person")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("frigate://ann@nvr", "lacks one of user and password"),
        ("frigate://ann:s3cret/@nvr", "in a password write / as %2F"),
        ("frigate://ann:s3cret@nvr?tls=no", "tls=off is for a Frigate without TLS"),
        ("frigate://ann:s3cret@nvr?tls=off&certificate=a.pem", "tls=off is for a Frigate without TLS"),
        ("frigate://nvr?tls=off", "are for a login"),
        ("frigate://nvr/api", r"is frigate://.USER:PASSWORD@.HOST"),
        ("frigate://nvr?cam=yard", "cam=, which is not known"),
        ("frigate://nvr?camera=", "camera= lacks a name"),
        ("frigate://nvr?object=a,,b", "object= lacks a name"),
        ("frigate://nvr?topic=a/%23", "without . and #"),
        ("frigate://?camera=a", "names no host"),
        ("frigate://nvr:99999", "port must be a number"),
    ],
)
def test_what_is_none(uri: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        find_source(uri)
    assert "s3cret" not in str(error.value)


def test_what_kind_of_source_it_is() -> None:
    spec = find_source("Frigate://nvr?object=person")
    assert (spec.kind, spec.uri, spec.name) == ("frigate", "frigate://nvr?object=person", "Frigate://nvr?object=person")
    assert (spec.live, spec.retried, spec.sequential, spec.options) == (False, True, False, set())
