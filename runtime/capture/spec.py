"""What a person may name as a source, and what is meant by it."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from attri.runtime._util.printable import as_text
from attri.runtime._util.redact import redact, redact_uri
from attri.runtime._util.transient import missing
from attri.runtime.capture.hints import did_you_mean, not_known, not_there
from attri.runtime.capture.v4l2 import BY_NAME, is_device
from attri.runtime.errors import UsageError
from attri.runtime.images import list_images

_SUFFIXES = "mp4 m4v mov mkv webm avi mpg mpeg ts wmv flv ogv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
STREAMS = ("rtsp", "rtsps", "http", "https")
ESCAPED = "in a password write / as %2F, ? as %3F, # as %23"
FLIPS = (
    *("none", "counterclockwise", "rotate-180", "clockwise", "horizontal", "vertical"),
    *("upper-right-diagonal", "upper-left-diagonal"),
)  # jetson-utils' names
CODECS = ("mjpeg", "raw")

_VIDEO_OPTIONS = {"flip", "stride", "roi", "retrieval_hysteresis"}
OPTIONS_OF = {
    "v4l2": {"width", "height", "rate", "codec"} | _VIDEO_OPTIONS,
    "csi": {"width", "height", "rate"} | _VIDEO_OPTIONS,
    "gst": _VIDEO_OPTIONS,
    "stream": {"latency"} | _VIDEO_OPTIONS,
    "video": {"loop"} | _VIDEO_OPTIONS,
    "images": {"loop", "stride", "roi", "megapixels"},
    "watch": {"roi", "megapixels"},
    "stdin": _VIDEO_OPTIONS | {"megapixels"},
}
LIVE = {"v4l2", "csi", "gst", "stream"}


@dataclass(frozen=True)
class InputOptions:
    """How a source is to be read; None where nobody asked. Names as in jetson-utils, `stride` as in ultralytics."""

    width: int | None = None  # pixels
    height: int | None = None
    rate: float | None = None  # frames per second
    codec: str | None = None  # of CODECS
    flip: str | None = None  # of FLIPS
    latency: int | None = None  # ms that a network stream may be buffered
    loop: int | None = None  # times that a file is played again; -1 for ever
    stride: int | None = None  # every so many frames
    megapixels: float | None = None  # millions of pixels of the largest image file that is decoded
    roi: tuple[int, int, int, int] | None = None  # x, y, width, height of the region to classify, pixels
    retrieval_hysteresis: float | None = None  # cosine that a new pool entry must be ahead of the frame before's

    def asked(self) -> set[str]:
        return {each.name for each in fields(self) if getattr(self, each.name) is not None}


@dataclass(frozen=True)
class SourceSpec:
    """One source as it was named, and how to reach it.

    name   as shown: the name in the sources file, or what was typed, without credentials
    kind   a key of OPTIONS_OF
    uri    for the opener: a device or its link, camera:NAME, a URI, a GStreamer pipeline, or a path
    files  of the kind "images"
    """

    name: str
    kind: str
    uri: str = field(repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)
    input: InputOptions = InputOptions()
    labels: Path | None = None
    template: str | None = None
    threshold: float | None = None

    @property
    def live(self) -> bool:
        """Whether frames come by themselves, so that the newest is wanted and a fault may pass."""
        return self.kind in LIVE

    @property
    def options(self) -> set[str]:
        """The fields of InputOptions that it takes."""
        no_udp = self.kind == "stream" and not self.uri.startswith("rtsp://")
        return OPTIONS_OF[self.kind] - {"latency"} if no_udp else OPTIONS_OF[self.kind]


def find_sources(
    words: Sequence[str], named: Mapping[str, SourceSpec], options: InputOptions = InputOptions(), watch: bool = False
) -> list[SourceSpec]:
    """What is behind the words, in order; names of the sources file first.

    Raises: UsageError: nothing there, a kind of source that is not known, or an option that none of them takes.
    """
    found = [[named[word]] if word in named else _behind(word, watch, tuple(named)) for word in words]
    specs = _together([spec for specs in found for spec in specs])
    taken = set().union(*(spec.options for spec in specs))
    if idle := sorted(options.asked() - taken):
        raise UsageError(f"{', '.join(map(option_name, idle))}: none of the sources takes it")
    if watch and not any(spec.kind == "watch" for spec in specs):
        raise UsageError("--watch: name a folder")
    named_apart = zip(specs, _names(specs), strict=True)
    return [replace(spec, name=name, input=_merged(spec, options)) for spec, name in named_apart]


def find_source(word: str, watch: bool = False) -> SourceSpec:
    """What is behind one word. Raises UsageError: nothing, or several sources."""
    specs = _behind(word, watch)
    if len(specs) > 1:
        raise UsageError(f"{redact(word)} matches {len(specs)} sources, where one is meant")
    return specs[0]


def option_name(field_name: str) -> str:
    plain = field_name in ("stride", "roi", "retrieval_hysteresis")
    return f"--{field_name.replace('_', '-')}" if plain else f"--input-{field_name}"


def _behind(word: str, watch: bool, names: Sequence[str] = ()) -> list[SourceSpec]:
    """A pattern may match videos, and each is a source. Raises UsageError."""
    name = redact(word) if word.startswith("gst:") else redact_uri(word)
    if not word:  # an unset variable of a shell; as a path it would mean this folder
        raise UsageError("a SOURCE is empty")
    try:
        if spec := _by_path(word, watch) or _by_form(word, name):
            return [spec]
        return _glob(word, names)
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be read, a NUL
        raise UsageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _merged(spec: SourceSpec, options: InputOptions) -> InputOptions:
    """The options of the command line for what the sources file leaves open."""
    free = (options.asked() & spec.options) - spec.input.asked()
    return replace(spec.input, **{name: getattr(options, name) for name in free})


def _together(specs: list[SourceSpec]) -> list[SourceSpec]:
    """Pictures that were named one after the other are one source: a shell makes hundreds of words of photos/*.jpg."""
    result: list[SourceSpec] = []
    for spec in specs:
        before = result[-1] if result else None
        if (
            before
            and before.kind == spec.kind == "images"
            and replace(before, name="", uri="", files=()) == replace(spec, name="", uri="", files=())
        ):
            result[-1] = replace(before, name="images", uri="images", files=before.files + spec.files)
        else:
            result.append(spec)
    return result


def _names(specs: Sequence[SourceSpec]) -> list[str]:
    """Each once, since results, labels and figures go by them: two streams may differ in what is hidden alone."""
    names: list[str] = []
    for spec in specs:
        name = shown = as_text(spec.name)
        number = 1
        while name in names:
            number += 1
            name = f"{shown} ({number})"
        names.append(name)
    return names


def _by_path(word: str, watch: bool) -> SourceSpec | None:
    path = Path(word.removeprefix("file://"))
    if is_device(str(path)):
        return SourceSpec(word, "v4l2", str(path.absolute()))
    if path.is_dir():
        return _folder(word, path, watch)
    if path.exists():
        return SourceSpec(word, "video" if _is_video(path) else "images", str(path), (path,))
    return None


def _folder(word: str, path: Path, watch: bool) -> SourceSpec:
    """Raises UsageError, and OSError: it may not be read, which a search for images below it would not say."""
    there = list(path.iterdir())
    if watch:
        return SourceSpec(word, "watch", str(path))
    files = list_images(path)
    if not files:
        video = next((each for each in there if _is_video(each)), None)
        hint = f": for its videos give '{path / '*'}{video.suffix}', in quotes" if video else ""
        raise UsageError(f"the folder {word} has no images{hint}") from missing(path)
    return SourceSpec(word, "images", str(path), tuple(files))


def _by_form(word: str, name: str) -> SourceSpec | None:
    scheme, colon, rest = word.partition("://")
    if word == "-":
        if sys.stdin is None:
            raise UsageError("-: standard input is closed")
        if sys.stdin.isatty():
            raise UsageError("-: standard input is a terminal: pipe JPEGs into it, or name files")
        return SourceSpec("-", "stdin", "-")
    if camera := re.fullmatch(r"camera(\d+)", word):
        return SourceSpec(word, "v4l2", f"/dev/video{int(camera[1])}")
    if word.startswith("gst:"):
        return SourceSpec(name, "gst", word.removeprefix("gst:"))
    if colon and scheme.lower() in STREAMS:
        _check_host(name, rest)
        return SourceSpec(name, "stream", f"{scheme.lower()}://{rest}")
    if word.startswith(BY_NAME) and not re.fullmatch(r"\W*\d*", word.removeprefix(BY_NAME)):
        return SourceSpec(word, "v4l2", word)
    if device := re.fullmatch(r"v4l2://(?:/dev/video)?(\d+)", word):
        return SourceSpec(word, "v4l2", f"/dev/video{int(device[1])}")
    if scheme == "v4l2" and is_device(rest):
        return SourceSpec(word, "v4l2", rest)
    if camera := re.fullmatch(r"csi://(\d+)", word):
        return SourceSpec(word, "csi", camera[1])
    if colon and scheme != "file":
        raise UsageError(not_known(word))
    return None


def _check_host(name: str, rest: str) -> None:
    """Refuse what stands behind `scheme://` where its host or port cannot be one. Raises UsageError."""
    account, host, port = split_authority(rest)
    hint = f" ({ESCAPED})" if not account and "@" in rest else ""
    if not host:
        raise UsageError(f"{name} names no host: write HOST or HOST:PORT behind the ://, IPv6 as [ADDRESS]{hint}")
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise UsageError(f"{name}: the port must be a number from 1 to 65535{hint}")


def split_authority(rest: str) -> tuple[str, str, str | None]:
    """User and password, host, and port (None: the default) of what stands behind `scheme://`, as FFmpeg reads it.

    An IPv6 address stands in brackets, which the host here has no more; the host is "" where none can be read.
    """
    account, _, place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%.*)?)\]|([^:\[\]]+))(?::(.*))?", place)
    return (account, found[1] or found[2], found[3]) if found else (account, "", None)


def _glob(word: str, names: Sequence[str]) -> list[SourceSpec]:
    """The pictures that match as one source, and each of the videos."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        Path(word).stat()  # raises where a folder may not be read; from Python 3.14 on, exists() does not
    if not glob.has_magic(word):
        raise UsageError(not_there(word, names)) from missing(word.removeprefix("file://"))
    matches = glob.glob(word, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
    files = sorted(path for path in map(Path, matches) if path.is_file())
    if not files:
        raise UsageError(f"nothing matches {redact_uri(word)}{did_you_mean(word)}") from missing(word)
    pictures = tuple(path for path in files if not _is_video(path))
    videos = [SourceSpec(str(path), "video", str(path), (path,)) for path in files if _is_video(path)]
    return [SourceSpec(word, "images", word, pictures), *videos] if pictures else videos


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_sources(path: Path) -> dict[str, SourceSpec]:
    """The sources file: a TOML table for each name.

        [door]
        uri = "rtsp://user:password@192.0.2.7/stream"   # anything that may stand on the command line
        labels = "door.txt"                             # beside this file; template and threshold likewise
        roi = [0, 0, 640, 480]                          # and the other input options, without "input-"

    Raises: UsageError: no such file, not TOML, a key that is not known, or a value of the wrong kind.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {redact(str(error))}") from error
    if not tables:
        raise UsageError(f"{path} names no sources: write [name] and below it uri = ...")
    return {name: _entry(path, name, table) for name, table in tables.items()}


def _entry(path: Path, name: str, table: Any) -> SourceSpec:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {name} must be a table: write [{name}] and below it uri = ...")
    for key, value in table.items():
        if key not in _CHECKS:
            raise UsageError(f"{path}: {name}.{key} is not known: use {', '.join(_CHECKS)}")
        if not _CHECKS[key](value):
            raise UsageError(f"{path}: {name}.{key} cannot be {redact(repr(value))}")
    if "uri" not in table:
        raise UsageError(f"{path}: {name} has no uri")
    try:
        spec = find_source(_beside(path, table["uri"]), table.get("watch", False))
    except UsageError as error:
        raise UsageError(f"{path}: {name}.uri: {error}") from error
    if table.get("watch") and spec.kind != "watch":
        raise UsageError(f"{path}: {name}.watch is for a folder")
    given: dict[str, Any] = {
        key: tuple(value) if key == "roi" else value for key, value in table.items() if key in _INPUT
    }
    options = InputOptions(**given)
    if idle := sorted(options.asked() - spec.options):
        raise UsageError(f"{path}: {name} takes no {', '.join(idle)}")
    labels = path.parent / table["labels"] if "labels" in table else None
    own = {key: table[key] for key in ("template", "threshold") if key in table}
    return replace(spec, name=name, input=options, labels=labels, **own)


def _beside(path: Path, uri: str) -> str:
    """A path in a sources file is meant from that file."""
    try:
        return str(path.parent / uri) if "://" not in uri and (path.parent / uri).exists() else uri
    except (OSError, ValueError):
        return uri


def _whole(low: int, high: int = 1 << 24) -> Any:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Any:
    return lambda value: type(value) in (int, float) and low <= value <= high


_INPUT = {each.name for each in fields(InputOptions)}
_CHECKS = {
    "uri": lambda value: isinstance(value, str) and value != "",
    "watch": lambda value: isinstance(value, bool),
    "labels": lambda value: isinstance(value, str) and value != "" and "\0" not in value,
    "template": lambda value: isinstance(value, str) and value.count("{}") == 1,
    "threshold": _number(0, 1),
    "width": _whole(1),
    "height": _whole(1),
    "rate": _number(0.001, 1000),
    "codec": lambda value: value in CODECS,
    "flip": lambda value: value in FLIPS,
    "latency": _whole(0),
    "loop": _whole(-1),
    "megapixels": _number(0.001, 1e6),
    "stride": _whole(1),
    "retrieval_hysteresis": _number(0, 2),
    "roi": lambda value: (
        isinstance(value, list) and len(value) == 4 and all(map(_whole(0), value)) and 0 not in value[2:]
    ),
}
