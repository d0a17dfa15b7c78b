"""Credentials never leave the process in words: not in logs, names, errors, or tracebacks."""

from __future__ import annotations

import re

_SECRETS = "password|passwd|pass|pwd|token|secret|auth|key|apikey|api_key|access_token|signature|sig"
# Up to the last @ before a slash, blank or quote: passwords hold @ themselves, and people forget to escape it.
_USER = re.compile(r"(\w+://)[^\s/\"'<>]*@")
_QUERY = re.compile(rf"(?i)([?&;]({_SECRETS})=)[^&;\s\"'<>]*")


def redact(text: str) -> str:
    """`text` with what stands before the @ of each URI, and the values of secret parameters, replaced by ***."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
