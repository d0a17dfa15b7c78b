"""Error messages for words that name no source: what was probably meant, nearest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher, get_close_matches
from itertools import islice
from pathlib import Path

from attri.runtime._util.redact import redact_uri
from attri.runtime.capture.spec import STREAMS

KNOWN = (
    "an image, folder, quoted glob or video file, camera0, camera:NAME, /dev/video0, /dev/v4l/by-id/..., csi://0, "
    "rtsp://HOST/PATH, http://HOST/PATH, frigate://HOST, gst:PIPELINE, or - for JPEGs on standard input"
)
_CAMERA = re.compile(r"(?i)(?:/dev/)?(?:usb|web|v4l2?)?[\W_]*(?:cam(?:era)?|video)?[\W_]*(\d*)")
_CSI = re.compile(r"(?i)csi[\W_]*(?:cam(?:era)?)?[\W_]*(\d*)")
_SCHEME = re.compile(r"(?is)([a-z]{3,6})[:;/\\]+(.+)")
_HOST = re.compile(r"(?s)[^/]*:.*@.+|(?:\d+\.\d+\.\d+\.\d+|[\w.-]+:\d{2,5})(?:[:/].*)?")  # user:password@host, host:554
_MOST_FILES = 2000  # of a folder that are compared with a file's name
_MOST_NAMES = 10  # of a sources file that are listed


def not_there(word: str, names: Iterable[str] = ()) -> str:
    """The message for a word that is neither a file nor a kind of source.

    Args:
        word: As it was typed; a password in it is not repeated.
        names: Those of the sources file.
    """
    if (link := Path(word)).is_symlink():
        return f"{word} is a link to {link.readlink()}, which does not exist"
    message = f"{redact_uri(word)} does not exist{did_you_mean(word, names)}"
    if re.search(r"[/.]", word) and not any(_rewritten(word)):  # a path
        return message
    near = sorted(names, key=lambda name: -_likeness(word, name))
    listed = ", ".join(near[:_MOST_NAMES]) + ", ..." * (len(near) > _MOST_NAMES)
    own = f"a name of the sources file ({listed})" if near else "a name from a sources file"
    return f"{_sentence(message)} A SOURCE is {KNOWN}; or {own}"


def not_known(word: str) -> str:
    """The message for a URI of a scheme that attri does not have."""
    message = f"{redact_uri(word)} is no source that attri knows{did_you_mean(word)}"
    return f"{_sentence(message)} A SOURCE is {KNOWN}"


def did_you_mean(word: str, names: Iterable[str] = ()) -> str:
    """The words ": did you mean X or Y?", nearest first; "" where nothing is near."""
    found = dict.fromkeys([*_rewritten(word), *_near_names(word, names), *_near_files(word)])
    near = sorted(found, key=lambda each: -_likeness(word, each))[:3]
    return f": did you mean {' or '.join(map(redact_uri, near))}?" if near else ""


def _sentence(message: str) -> str:
    return message if message.endswith("?") else f"{message}."


def _rewritten(word: str) -> Iterator[str]:
    """The word as attri writes it, where it is clear how that is: `cam0`, `csi:0`, `rtsp//host`."""
    if (found := _CAMERA.fullmatch(word)) and re.search(r"\w", word):
        yield f"camera{int(found[1] or 0)}"
    if found := _CSI.fullmatch(word):
        yield f"csi://{int(found[1] or 0)}"
    if (found := _SCHEME.fullmatch(word)) and (scheme := get_close_matches(found[1].lower(), STREAMS, 1, 0.75)):
        yield f"{scheme[0]}://{found[2]}"
    elif "://" not in word and _HOST.fullmatch(word):
        yield f"rtsp://{word}"


def _near_names(word: str, names: Iterable[str]) -> list[str]:
    number = word[len(word.rstrip("0123456789")) :]
    return [name for name in (f"camera{number or 0}", *names) if _likeness(word, name) >= 0.6]


def _near_files(word: str) -> list[str]:
    path = Path(word)
    try:
        there = {each.name.lower(): each for each in islice(path.parent.iterdir(), _MOST_FILES)}
    except (OSError, ValueError):
        return []
    return [str(there[name]) for name in get_close_matches(path.name.lower(), there, 2, 0.8)]


def _likeness(word: str, other: str) -> float:
    return SequenceMatcher(None, word.lower(), other.lower()).ratio()
