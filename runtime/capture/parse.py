"""Find the sources behind the words of a command line: paths, globs, cameras, streams and pipelines."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from attri.runtime._util.printable import as_text
from attri.runtime._util.redact import redact, redact_uri
from attri.runtime._util.transient import missing
from attri.runtime.capture.frigate.address import SCHEME, FrigateAddress
from attri.runtime.capture.hints import did_you_mean, not_known, not_there
from attri.runtime.capture.spec import SOURCE_OPTIONS, STREAMS, VIDEO_SUFFIXES, SourceOption, SourceOptions, SourceSpec
from attri.runtime.capture.v4l2 import BY_NAME, is_device
from attri.runtime.errors import AttriError, UsageError
from attri.runtime.images import list_images

ESCAPED = "in a password write / as %2F, ? as %3F, # as %23"
_NO_OPTIONS = SourceOptions()


def find_sources(
    words: Sequence[str],
    named: Mapping[str, SourceSpec],
    options: SourceOptions = _NO_OPTIONS,
    watch: bool = False,
) -> list[SourceSpec]:
    """Find what is behind words, in order.

    Args:
        words: Names of the sources file, paths, globs, cameras, URIs or pipelines.
        named: The sources file, by name; a name of it goes before a path.
        options: Go to the sources that take them, unless the sources file has its own; see `unused_options`.
        watch: Whether folders are watched for images that arrive.

    Returns:
        The sources, each with a name of its own.

    Raises:
        UsageError: Nothing is there, or it is no kind of source.
    """
    found = [[named[word]] if word in named else _behind(word, watch, tuple(named)) for word in words]
    specs = _merge_images([spec for specs in found for spec in specs])
    with_names = zip(specs, _unique_names(specs), strict=True)
    return [replace(spec, name=name, input=_merge_options(spec, options)) for spec, name in with_names]


def find_source(word: str, watch: bool = False) -> SourceSpec:
    """Find the one source behind a word.

    Raises:
        UsageError: There is none, or there are several.
    """
    specs = _behind(word, watch)
    if len(specs) > 1:
        raise UsageError(f"{redact(word)} matches {len(specs)} sources, where one is meant")
    return specs[0]


def unused_options(specs: Sequence[SourceSpec], options: SourceOptions) -> list[SourceOption]:
    """The options that were asked for and that none of the sources takes."""
    taken = set().union(*(spec.options for spec in specs))
    return [option for option in SOURCE_OPTIONS if option.name in options.given() - taken]


def _behind(word: str, watch: bool, names: Sequence[str] = ()) -> list[SourceSpec]:
    """The sources of a word: several where a glob matches videos."""
    name = redact(word) if word.startswith("gst:") else redact_uri(word)
    if not word:  # an unset variable of a shell; as a path it would mean this folder
        raise UsageError("a SOURCE is empty")
    try:
        if spec := _by_path(word, watch) or _by_form(word, name):
            return [spec]
        return _glob(word, names)
    except AttriError:
        raise
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be read, a NUL
        raise UsageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _merge_options(spec: SourceSpec, options: SourceOptions) -> SourceOptions:
    """Options of all sources, for what the sources file leaves open."""
    free = (options.given() & spec.options) - spec.input.given()
    return replace(spec.input, **{name: getattr(options, name) for name in free})


def _merge_images(specs: list[SourceSpec]) -> list[SourceSpec]:
    """Make one source of images in a row: a shell makes hundreds of words of photos/*.jpg."""
    result: list[SourceSpec] = []
    for spec in specs:
        if result and spec.kind == "images" and _bare(result[-1]) == _bare(spec):
            result[-1] = replace(result[-1], name="images", uri="images", files=result[-1].files + spec.files)
        else:
            result.append(spec)
    return result


def _bare(spec: SourceSpec) -> SourceSpec:
    """A source without what tells it from others of its kind."""
    return replace(spec, name="", uri="", files=())


def _unique_names(specs: Sequence[SourceSpec]) -> list[str]:
    """Name each source once, since results, labels and metrics go by names: URIs may differ in hidden parts alone."""
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
    there = list(path.iterdir())  # raises where it may not be read, which a search for images below it would not say
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
    if colon and scheme.lower() == SCHEME:
        _check_host(name, rest)
        FrigateAddress.parse(f"{SCHEME}://{rest}")
        return SourceSpec(name, "frigate", f"{SCHEME}://{rest}")
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
    """Refuse an authority whose host or port cannot be one; `rest` is what follows `scheme://`."""
    account, host, port = split_authority(rest)
    hint = f" ({ESCAPED})" if not account and "@" in rest else ""
    if not host:
        raise UsageError(f"{name} names no host: write HOST or HOST:PORT behind the ://, IPv6 as [ADDRESS]{hint}")
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise UsageError(f"{name}: the port must be a number from 1 to 65535{hint}")


def split_authority(rest: str) -> tuple[str, str, str | None]:
    """Split what follows `scheme://` as FFmpeg does.

    Returns:
        User and password, the host (an IPv6 address without its brackets; "" where none can be read), and the port
        (None: the default).
    """
    account, _, place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%.*)?)\]|([^:\[\]]+))(?::(.*))?", place)
    return (account, found[1] or found[2], found[3]) if found else (account, "", None)


def _glob(word: str, names: Sequence[str]) -> list[SourceSpec]:
    """The images that match a glob as one source, and each video as its own."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        Path(word).stat()  # raises where a folder may not be read; from Python 3.14 on, exists() does not
    if not glob.has_magic(word):
        raise UsageError(not_there(word, names)) from missing(word.removeprefix("file://"))
    matches = glob.glob(word, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
    files = sorted(path for path in map(Path, matches) if path.is_file())
    if not files:
        raise UsageError(f"nothing matches {redact_uri(word)}{did_you_mean(word)}") from missing(word)
    images = tuple(path for path in files if not _is_video(path))
    videos = [SourceSpec(str(path), "video", str(path), (path,)) for path in files if _is_video(path)]
    return [SourceSpec(word, "images", word, images), *videos] if images else videos


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES
