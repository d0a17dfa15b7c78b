"""Redaction: hide passwords, tokens and other credentials in logs, names, errors and tracebacks."""

from __future__ import annotations

import re
import threading

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
# Behind which a user's name may stand. Behind anything else it may be the password: of user:/password@host.
_SCHEME = re.compile(r"(?i)(?:^|[\s='\"])(?:https?|rtsp[stu]?|rtmps?|mqtts?|mms|srt|tcp|udp|rtp|ftp)$")
_VALUE_OF_URI = re.compile(rf"(?is)((?:\b|_)(?:{_SECRETS})=)[^&;]*")
_MOST_SECRETS = 4096


class Redactor:
    """Replaces credentials by ***, those of URIs that it has seen wherever they stand.

    In a text a password can only be found by the characters around it. Of a URI on its own it is known where the
    password ends, so it is kept, and found again whatever characters it has.

    Args:
        most: secrets that are kept; the ones seen longest ago go first.
    """

    def __init__(self, most: int = _MOST_SECRETS) -> None:
        self._most = most
        self._known: dict[str, str] = {}  # parts of URIs with their secrets -> without
        self._lock = threading.Lock()

    def redact(self, text: str) -> str:
        """Replace the user and password before the @ of each URI, and the values of secret parameters."""
        with self._lock:
            known = self._known.copy()
        for secret in sorted(known, key=len, reverse=True):  # one may begin with another
            text = text.replace(secret, known[secret])
        return _VALUE.sub(r"\1***", _USER.sub(r"\1***@", text))

    def redact_uri(self, uri: str) -> str:
        """Replace the credentials of a text that is one URI, and keep them for `redact`."""
        for pattern, end in ((_user_pattern(uri), "@"), (_VALUE_OF_URI, "")):
            for found in pattern.finditer(uri):
                self._keep(found[0], f"{found[1]}***{end}")
            uri = pattern.sub(rf"\1***{end}", uri)
        return self.redact(uri)

    def _keep(self, secret: str, shown: str) -> None:
        with self._lock:
            self._known.pop(secret, None)
            self._known[secret] = shown  # at the end
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]


REDACTOR = Redactor()  # of this process: what one part of it has seen, the log of another must not show
redact, redact_uri = REDACTOR.redact, REDACTOR.redact_uri


def has_password(word: str) -> bool:
    """Whether a word of a command line holds a password or token; a user's name alone is none."""
    for found in _user_pattern(word).finditer(word):
        if ":" in found[2] or not _SCHEME.search(word[: found.start()]):
            return True
    return any(found[2] for found in _VALUE.finditer(word))


def _user_pattern(word: str) -> re.Pattern[str]:
    """Return the pattern that finds user and password in a word, which may be a URI or a mistyped one."""
    return _USER_OF_URI if _USER_OF_URI.search(word) else _USER_OF_WORD
