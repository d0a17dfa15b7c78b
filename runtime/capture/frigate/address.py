"""Where a Frigate is, and which of its objects are meant: frigate://[USER:PASSWORD@]HOST[:PORT][?camera=...&...]."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from attri.runtime.errors import UsageError

SCHEME = "frigate"
_PORT = 5000  # of Frigate's API without a login, "for services that integrate with Frigate"
_PORT_WITH_LOGIN = 8971
_KEYS = ("camera", "object", "topic", "tls", "certificate")
_FORM = "frigate://[USER:PASSWORD@]HOST[:PORT]?camera=NAME&object=NAME, where several names have commas between"


@dataclass(frozen=True)
class FrigateAddress:
    """What a frigate:// URI says.

    Attributes:
        api: Address of the HTTP API, without a slash at the end.
        cameras: Names of the cameras that are meant; none are all.
        objects: Labels that Frigate gave to the objects that are meant; none are all.
        topic: Frigate's `topic_prefix`.
        user: Who logs in; "" where nobody has to.
        password: Of the user.
        certificate: File with the certificate of the server; None is any that the system trusts for the host.
    """

    api: str
    cameras: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    topic: str = "frigate"
    user: str = ""
    password: str = field(default="", repr=False)
    certificate: str | None = None

    @classmethod
    def parse(cls, uri: str) -> FrigateAddress:
        """Read a URI whose host and port can be such.

        Raises:
            UsageError: It holds a path, half of a login, or something that is not known.
        """
        parts = urlsplit(uri)
        host, user, password = parts.hostname or "", unquote(parts.username or ""), unquote(parts.password or "")
        port = parts.port or (_PORT_WITH_LOGIN if user else _PORT)
        if parts.path.strip("/") or parts.fragment or parts.scheme != SCHEME:
            raise UsageError(f"Frigate is {_FORM}")
        if bool(user) != bool(password):
            raise UsageError(f"frigate://{host} lacks one of user and password: write USER:PASSWORD@ before the host")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(query.keys() - set(_KEYS)):
            raise UsageError(
                f"frigate://{host} has a {unknown[0]}=, which is not known: it is {_FORM}, and topic=PREFIX"
            )
        tls, certificate = query.get("tls", "on"), query.get("certificate")
        if not user and query.keys() & {"tls", "certificate"}:
            raise UsageError(
                f"frigate://{host}: tls= and certificate= are for a login: write USER:PASSWORD@ before the host"
            )
        if tls not in ("on", "off") or (tls == "off" and certificate is not None):
            raise UsageError(f"frigate://{host}: tls=off is for a Frigate without TLS, certificate=FILE for one with")
        topic = query.get("topic", "frigate").strip("/")
        if not topic or re.search(r"[+#\0]", topic):
            raise UsageError(f"frigate://{host}: topic= is Frigate's topic_prefix, without + and #")
        names = {key: _names(host, key, query[key]) for key in ("camera", "object") if key in query}
        api = f"http{'s' if user and tls == 'on' else ''}://{f'[{host}]' if ':' in host else host}:{port}"
        cameras, objects = (names.get(key, frozenset()) for key in ("camera", "object"))
        return cls(api, cameras, objects, topic, user, password, certificate)

    @property
    def host(self) -> str:
        """HOST:PORT of the API."""
        return self.api.partition("://")[2]

    def wants(self, camera: str, label: str) -> bool:
        """Whether an object of this camera and label is meant."""
        return (not self.cameras or camera in self.cameras) and (not self.objects or label in self.objects)


def _names(host: str, key: str, text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"frigate://{host}: {key}= lacks a name")
    return frozenset(names)
