"""Credentials never leave the process in words: not in logs, names, errors, or tracebacks."""

from __future__ import annotations

import re

_SECRETS = (
    "password|passwd|passphrase|pass|pas|loginpas|pwd|psw|pw|token|secret|authorization|auth|key|apikey|signature|sig"
)
# What a usage line says of a user is no secret: mqtt://[USER:PASSWORD@]HOST, mqtt://USER@HOST.
_NO_PLACEHOLDER = r"(?!\[USER(?::PASSWORD)?@\]HOST\b|USER(?::PASSWORD)?@HOST\b)"
# Up to the last @ before a blank: passwords hold @, / and quotes themselves, and people forget to escape them. Only a
# slash behind a host, or behind a host and its port, ends the part where a user's name may stand. One slash in place
# of two is a slip that must not show a password.
_USER = re.compile(rf"(?<=\w)(:/{{1,3}}){_NO_PLACEHOLDER}(?:[^\s/]*|[^\s/:]*:(?!\d+/)\S*)@")
# Behind a blank, & or _ (as video recorders have it), in quotes or not; a backslash takes the next character along.
# The punctuation of the sentence around it (`token=abc: connection refused`) is not part of the value.
_PLAIN = r"""(?:\\.|[^&;\s"'<>])*?(?=[:,.)]*(?:[&;\s"'<>]|$))"""
_VALUE = re.compile(rf"""(?i)((?:\b|_)(?:{_SECRETS})\s*=\s*)("(?:\\.|[^"])*"?|'(?:\\.|[^'])*'?|{_PLAIN})""")
# In a text that is one URI and nothing else, anything may be part of them; in doubt it is a password.
_USER_OF_URI = re.compile(rf"(?s)(?<=\w)(:/{{1,3}}){_NO_PLACEHOLDER}([^/]*|[^/:]*:.*)@")
# Without its scheme, or with one that was mistyped (rtsp//user:password@host), it takes a colon to be one.
_USER_OF_WORD = re.compile(r"(?s)^(?!\w[\w+.-]*:/)(\w+/+|)(.*:.*)@")
_VALUE_OF_URI = re.compile(rf"(?is)((?:\b|_)(?:{_SECRETS})=)[^&;]*")
_known: dict[str, str] = {}  # parts of URIs with their secrets -> without


def redact(text: str) -> str:
    """`text` with what stands before the @ of each URI, and the values of secret parameters, replaced by ***."""
    for secret in sorted(_known, key=len, reverse=True):  # one may begin with another
        text = text.replace(secret, _known[secret])
    return _VALUE.sub(r"\1***", _USER.sub(r"\1***@", text))


def redact_uri(uri: str) -> str:
    """The same for one URI; from now on `redact` finds its secrets in any text, whatever characters they are of."""
    for pattern, end in ((_user_pattern(uri), "@"), (_VALUE_OF_URI, "")):
        _known.update({found[0]: f"{found[1]}***{end}" for found in pattern.finditer(uri)})
        uri = pattern.sub(rf"\1***{end}", uri)
    return redact(uri)


def has_password(word: str) -> bool:
    """Whether a secret stands in a word of a command line: more than a user's name."""
    users = [found[2] for found in _user_pattern(word).finditer(word)]
    return any(":" in user for user in users) or any(found[2] for found in _VALUE.finditer(word))


def _user_pattern(word: str) -> re.Pattern[str]:
    """What finds the user's name and password in this word."""
    return _USER_OF_URI if _USER_OF_URI.search(word) else _USER_OF_WORD
