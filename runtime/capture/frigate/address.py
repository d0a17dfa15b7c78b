"""Where a Frigate is, and which of its objects are meant: frigate://HOST[:PORT][?camera=...&object=...&topic=...]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from attri.runtime.errors import UsageError

SCHEME = "frigate"
_PORT = 5000  # of Frigate's API without a login, "for services that integrate with Frigate"
_KEYS = ("camera", "object", "topic")
_FORM = "frigate://HOST[:PORT]?camera=NAME&object=NAME, where several names have commas between"


@dataclass(frozen=True)
class FrigateAddress:
    """What a frigate:// URI says.

    Attributes:
        api: Address of the HTTP API, without a slash at the end.
        cameras: Names of the cameras that are meant; none are all.
        objects: Labels that Frigate gave to the objects that are meant; none are all.
        topic: Frigate's `topic_prefix`.
    """

    api: str
    cameras: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    topic: str = "frigate"

    @classmethod
    def parse(cls, uri: str) -> FrigateAddress:
        """Read a URI whose host and port can be such.

        Raises:
            UsageError: It holds a user, a path, or something that is not known.
        """
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port or _PORT
        if parts.username or parts.password or parts.path.strip("/") or parts.fragment or parts.scheme != SCHEME:
            raise UsageError(f"Frigate is {_FORM}; it takes no user: its port {_PORT} asks for none")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(query.keys() - set(_KEYS)):
            raise UsageError(
                f"frigate://{host} has a {unknown[0]}=, which is not known: it is {_FORM}, and topic=PREFIX"
            )
        topic = query.get("topic", "frigate").strip("/")
        if not topic or re.search(r"[+#\0]", topic):
            raise UsageError(f"frigate://{host}: topic= is Frigate's topic_prefix, without + and #")
        names = {key: _names(host, key, query[key]) for key in ("camera", "object") if key in query}
        api = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return cls(api, names.get("camera", frozenset()), names.get("object", frozenset()), topic)

    def wants(self, camera: str, label: str) -> bool:
        """Whether an object of this camera and label is meant."""
        return (not self.cameras or camera in self.cameras) and (not self.objects or label in self.objects)


def _names(host: str, key: str, text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"frigate://{host}: {key}= lacks a name")
    return frozenset(names)
