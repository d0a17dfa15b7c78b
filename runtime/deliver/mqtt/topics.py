"""Names of MQTT topics: one per source under a prefix, the same in every run.

| topic                 | retained payload |
|-----------------------|------------------|
| `PREFIX/status`       | "online", or "offline" (also the last will) |
| `PREFIX/SOURCE`       | The last event as JSON. Images of a folder share it; `source` in the event is the file. |
| `PREFIX/SOURCE/TASK`  | The same of each task, where the source has several. |
| `PREFIX/SOURCE/state` | "live", "retrying", ...: the state in the source's health; at the end "ended" or "dead". |
| `DISCOVERY/sensor/...`, `DISCOVERY/binary_sensor/...` | Discovery documents of Home Assistant. |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from attri.runtime.deliver.format import file_name
from attri.runtime.deliver.mqtt.home_assistant import identifier
from attri.runtime.deliver.result import ResultKey, SourceHealth
from attri.runtime.errors import UsageError

_WILDCARDS = set("+#\0")


def check_prefix(prefix: str) -> None:
    """Check that topics may begin with this prefix.

    Raises:
        UsageError: They may not.
    """
    if not prefix.strip("/") or set(prefix) & _WILDCARDS or not prefix.isprintable():
        raise UsageError(f"{prefix!r} is no MQTT topic: letters, digits and slashes")


def source_topics(prefix: str, sources: Sequence[str], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The topic of each source; `known` ones stay as they are.

    It depends on the names of the sources and their order alone, so that the next run replaces what this one retained.
    Sources whose names differ only in other characters than letters and digits get a digest behind the name.
    """
    topics = dict(known or {})
    for source in (each for each in sources if each not in topics):
        plain, digest = file_name(source), hashlib.sha256(source.encode(errors="replace")).hexdigest()
        taken = {f"{prefix}/status", *topics.values()}
        names = (f"{prefix}/{name}" for name in (plain, f"{plain}-{digest[:6]}", f"{plain}-{digest}"))
        topics[source] = next(name for name in names if name not in taken)
    return topics


def event_topics(topics: Mapping[str, str], sources: Iterable[SourceHealth]) -> dict[ResultKey, str]:
    """The topic of the events of each source and task.

    Args:
        topics: Of the sources.
        sources: With their tasks, whose names can be one level of a topic each.
    """
    keys = (key for health in sources for key in health.keys)
    return {key: topics[key.origin] if key.task is None else f"{topics[key.origin]}/{key.task}" for key in keys}


def is_ours(topic: str, prefix: str) -> bool:
    """Whether a topic read from the disk, which may be damaged, is one that a sink with this prefix publishes."""
    kinds = (f"/{kind}/{identifier(prefix)}_" for kind in ("sensor", "binary_sensor"))
    own = topic.startswith(f"{prefix}/") or any(kind in topic for kind in kinds)
    return own and not set(topic) & _WILDCARDS
