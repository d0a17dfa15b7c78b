"""Credentials never leave the process in words: not in logs, names, errors, or tracebacks."""

from __future__ import annotations

import re

_SECRETS = (
    "password|passwd|passphrase|pass|pas|loginpas|pwd|psw|pw|token|secret|authorization|auth|key|apikey|signature|sig"
)
# Up to the last @ before a blank: passwords hold @, / and quotes themselves, and people forget to escape them. Only a
# slash behind a host, or behind a host and its port, ends the part where a user's name may stand.
_USER = re.compile(r"(?<=\w)(://)(?:[^\s/]*|[^\s/:]*:(?!\d+/)\S*)@")
# Behind a blank, & or _ (as video recorders have it), in quotes or not; a backslash takes the next character along.
_VALUE = re.compile(rf"""(?i)((?:\b|_)(?:{_SECRETS})\s*=\s*)("(?:\\.|[^"])*"?|'(?:\\.|[^'])*'?|(?:\\.|[^&;\s"'<>])*)""")
# In a text that is one URI and nothing else, anything may be part of them; in doubt it is a password.
_USER_OF_URI = re.compile(r"(?s)(?<=\w)(://)([^/]*|[^/:]*:.*)@")
_VALUE_OF_URI = re.compile(rf"(?is)((?:\b|_)(?:{_SECRETS})=)[^&;]*")
_known: dict[str, str] = {}  # parts of URIs with their secrets -> without


def redact(text: str) -> str:
    """`text` with what stands before the @ of each URI, and the values of secret parameters, replaced by ***."""
    for secret in sorted(_known, key=len, reverse=True):  # one may begin with another
        text = text.replace(secret, _known[secret])
    return _VALUE.sub(r"\1***", _USER.sub(r"\1***@", text))


def redact_uri(uri: str) -> str:
    """The same for one URI; from now on `redact` finds its secrets in any text, whatever characters they are of."""
    for pattern, end in ((_USER_OF_URI, "@"), (_VALUE_OF_URI, "")):
        _known.update({found[0]: f"{found[1]}***{end}" for found in pattern.finditer(uri)})
        uri = pattern.sub(rf"\1***{end}", uri)
    return redact(uri)


def has_password(word: str) -> bool:
    """Whether a secret stands in a word of a command line: more than a user's name."""
    users = [found[2] for found in _USER_OF_URI.finditer(word)]
    return any(":" in user for user in users) or any(found[2] for found in _VALUE.finditer(word))
