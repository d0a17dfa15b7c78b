"""Credentials never leave the process in words: not in logs, names, errors, or tracebacks."""

from __future__ import annotations

import re

_SECRETS = "password|passwd|pass|pwd|token|secret|auth|key|apikey|api_key|access_token|signature|sig|user-pw|proxy-pw"
# Up to the last @ before a blank or quote: passwords hold @ and / themselves, and people forget to escape them. Only a
# slash behind a host, or behind a host and its port, ends the part where a user's name may stand.
_USER = re.compile(r"(\w+://)(?:[^\s/\"'<>]*|[^\s/:\"'<>]*:(?!\d+/)[^\s\"'<>]*)@")
_VALUE = re.compile(rf"(?i)\b({_SECRETS})=[^&;\s\"'<>]*")


def redact(text: str) -> str:
    """`text` with what stands before the @ of each URI, and the values of secret parameters, replaced by ***."""
    return _VALUE.sub(r"\1=***", _USER.sub(r"\1***@", text))
