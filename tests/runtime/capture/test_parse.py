"""Parsing of SOURCE words: paths, globs, cameras, streams, and words that were meant to be one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from attri.runtime.capture.parse import find_source, find_sources, unused_options
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.errors import UsageError

_NOBODY = 65534


def files(*words: str) -> list[str]:
    return [path.as_posix() for spec in find_sources(words, {}) for path in spec.files]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["."], ["a.jpg", "b.png", "deep/c.PNG"]),
        (["b.png", "deep", "a.jpg"], ["b.png", "deep/c.PNG", "a.jpg"]),
        (["b.png", "b.png"], ["b.png", "b.png"]),
        (["*.*g"], ["a.jpg", "b.png"]),
        (["**/*.[pP]*"], ["b.png", "deep/c.PNG"]),
        (["notes.txt"], ["notes.txt"]),
        (["file://b.png"], ["b.png"]),
    ],
    ids=str,
)
def test_files_behind_words(folder: Path, words: list[str], wanted: list[str]) -> None:
    assert files(*words) == wanted


@pytest.mark.parametrize("name", ["odd[1].png", "camera_roll.png", "camera", "-.png", "gst:x.png"])
def test_a_file_that_is_there_is_taken_by_its_name(folder: Path, name: str) -> None:
    (folder / "b.png").rename(folder / name)
    assert files(name) == [name]


@pytest.mark.parametrize(
    ("word", "kind", "uri"),
    [
        ("camera0", "v4l2", "/dev/video0"),
        ("camera12", "v4l2", "/dev/video12"),
        ("/dev/video3", "v4l2", "/dev/video3"),
        ("v4l2:///dev/video3", "v4l2", "/dev/video3"),
        ("v4l2://3", "v4l2", "/dev/video3"),
        ("csi://1", "csi", "1"),
        ("gst:videotestsrc ! videoconvert", "gst", "videotestsrc ! videoconvert"),
        ("rtsp://host/1", "stream", "rtsp://host/1"),
        ("RTSPS://host/1", "stream", "rtsps://host/1"),
        ("http://host/mjpeg", "stream", "http://host/mjpeg"),
        ("https://host/mjpeg", "stream", "https://host/mjpeg"),
        ("clip.MP4", "video", "clip.MP4"),
        ("-", "stdin", "-"),
    ],
)
def test_kinds(folder: Path, word: str, kind: str, uri: str) -> None:
    spec = find_source(word)
    assert (spec.name, spec.kind, spec.uri) == (word, kind, uri)
    assert spec.live == (kind in ("v4l2", "csi", "gst", "stream"))


@pytest.mark.parametrize("password", ["it's", 'a"b', "a<b>", "pa ss", "1/2@3"])
def test_an_odd_password_is_in_no_name(folder: Path, password: str) -> None:
    assert find_source(f"rtsp://user:{password}@host/1").name == "rtsp://***@host/1"


def test_a_password_is_in_no_name(folder: Path) -> None:
    spec = find_source("rtsp://user:secret@host/1")
    assert spec.name == "rtsp://***@host/1"
    assert spec.uri == "rtsp://user:secret@host/1"
    assert "secret" not in repr(spec)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("gone.png", "gone.png does not exist"),
        ("camera_roll.png", "does not exist"),
        ("camera", "does not exist"),
        ("camera-1", "does not exist"),
        ("file://gone.png", "does not exist"),
        ("*.bmp", "nothing matches"),
        ("empty", "the folder empty has no images$"),
        ("x" * 300, "File name too long"),
        ("a\0b", "does not exist"),
        ("", "is empty"),
        ("ftp://user:secret@host/1", r"ftp://\*\*\*@host/1 is no source that attri knows\. A SOURCE is an image"),
        ("rtsp:/user:%73secret@host/1", r"^rtsp:/\*\*\*@host/1 does not exist"),
        ("user:p%40secret@host/1", r"^\*\*\*@host/1 does not exist"),
        ("rtsp//user:secret[1]*@host/1", r"nothing matches rtsp//\*\*\*@host/1"),
        ("csi://front", "is no source"),
        ("v4l2://front", "is no source"),
    ],
)
def test_what_is_no_source(folder: Path, word: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        find_sources(("b.png", word), {})
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("camera", "camera0"),
        ("cam0", "camera0"),
        ("0", "camera0"),
        ("1", "camera1"),
        ("webcam", "camera0"),
        ("USB Camera 2", "camera2"),
        ("camera:1", "camera1"),
        ("camra1", "camera1"),
        ("csi:0", "csi://0"),
        ("csi1", "csi://1"),
        ("rtsp//h", "rtsp://h"),
        ("rtsp:/h/1", "rtsp://h/1"),
        ("rtsp:h/1", "rtsp://h/1"),
        ("rstp://h/1", "rtsp://h/1"),
        ("192.0.2.7/1", "rtsp://192.0.2.7/1"),
        ("rtsp:/u:p%40ss@host/x", r"rtsp://\*\*\*@host/x"),
        ("u:p%40ss@host/x", r"rtsp://\*\*\*@host/x"),
        ("dor", "door"),
        ("Hall", "hall or hall left"),
        ("hall_left", "hall left or hall"),  # the nearest first
    ],
)
def test_what_a_mistyped_word_was_meant_to_be(folder: Path, word: str, meant: str) -> None:
    """One line: the nearest, then all kinds of sources, then the names of the sources file."""
    named = {name: SourceSpec(name, "v4l2", "/dev/video0") for name in ("door", "hall", "hall left")}
    with pytest.raises(
        UsageError, match=rf"(not exist|not? .* knows): did you mean {meant}\? A SOURCE is .*csi://0"
    ) as error:
        find_sources((word,), named)
    assert "p%40ss" not in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_the_sources_file_are_listed_nearest_first(folder: Path) -> None:
    named = {name: SourceSpec(name, "v4l2", "/dev/video0") for name in ("aisle", "door", "hall")}
    with pytest.raises(UsageError, match=r"or a name of the sources file \(hall, aisle, door\)$"):
        find_sources(("halls",), named)


def test_a_file_that_is_nearly_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^deep/c\.png does not exist: did you mean deep/c\.PNG\?$"):
        find_source("deep/c.png")
    (folder / "broken.png").symlink_to("gone.png")
    with pytest.raises(UsageError, match=r"^broken\.png is a link to gone\.png, which does not exist$"):
        find_source("broken.png")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("host:99999/1", "the port must be a number from 1 to 65535$"),
        ("host:0/1", "the port must be"),
        ("host:-5/1", "the port must be"),
        ("host:abc/1", "the port must be"),
        ("host:/1", "the port must be"),
        ("host:٣/1", "the port must be"),
        ("user:secret@host:abc", "the port must be"),
        ("user:sec/ret@host/1", r"the port must be .* \(in a password write / as %2F"),
        ("[::1]:x/1", "the port must be"),
        ("", "names no host"),
        ("/1", "names no host"),
        (":554/1", "names no host"),
        ("user:secret@/1", "names no host"),
        ("::1/1", r"names no host: .*IPv6 as \[ADDRESS\]"),
        ("[::1/1", "names no host"),
    ],
)
def test_a_host_or_port_that_cannot_be_one(folder: Path, scheme: str, rest: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        find_source(f"{scheme}://{rest}")
    assert "sec" not in str(error.value)


@pytest.mark.parametrize(
    "rest", ["[::1]:8554/1", "[fe80::1%25eth0]/1", "a:b%2F@host:1/1", "a:b@c@host", "host?a=b@c", "cam_1.local:65535"]
)
def test_hosts_and_ports_that_can_be(folder: Path, rest: str) -> None:
    assert find_source(f"rtsp://{rest}").uri == f"rtsp://{rest}"


def test_a_folder_of_videos_alone(folder: Path) -> None:
    (folder / "empty" / "a.mkv").touch()
    with pytest.raises(UsageError, match=r"^the folder empty has no images: for its videos give 'empty/\*\.mkv', in"):
        find_source("empty")
    assert find_source("empty/*.mkv").kind == "video"


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that may not be read, with an image in it, in the working directory; root is somebody else meanwhile."""
    root = os.geteuid() == 0
    with TemporaryDirectory() as here:
        monkeypatch.chdir(here)
        path = Path(here) / "shut"
        path.mkdir()
        (path / "b.png").touch()
        for each in (path, Path(here)):
            os.chown(each, _NOBODY if root else -1, -1)
        path.chmod(0)
        os.seteuid(_NOBODY if root else os.geteuid())
        try:
            yield path
        finally:
            os.seteuid(0 if root else os.geteuid())
            path.chmod(0o700)


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("word", ["shut", "shut/b.png", "shut/*.png"])
def test_a_folder_that_may_not_be_read(shut: Path, word: str, watch: bool) -> None:
    with pytest.raises(UsageError, match=r"^shut\S* cannot be read: Permission denied$"):
        find_sources((word,), {}, watch=watch)


def test_images_named_in_a_row_are_one_source(folder: Path) -> None:
    specs = find_sources(("a.jpg", "b.png", "clip.MP4", "b.png", "camera0"), {})
    assert [spec.name for spec in specs] == ["images", "clip.MP4", "b.png", "camera0"]


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a shell says <&-, Python has none."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        find_source("-")


def test_no_two_sources_have_one_name(folder: Path) -> None:
    words = ("http://nvr/s?token=A", "http://nvr/s?token=B", "clip.MP4", "http://nvr/s?token=C")
    specs = find_sources(words, {})
    shown = "http://nvr/s?token=***"
    assert [spec.name for spec in specs] == [shown, f"{shown} (2)", "clip.MP4", f"{shown} (3)"]
    assert [spec.uri for spec in specs] == list(words)


def test_a_pattern_finds_videos_too(folder: Path) -> None:
    (folder / "later.mp4").write_bytes(b"")
    specs = find_sources(("*.*[g4]",), {})
    assert [(spec.name, spec.kind) for spec in specs] == [
        ("*.*[g4]", "images"),
        ("clip.MP4", "video"),
        ("later.mp4", "video"),
    ]
    assert [path.name for path in specs[0].files] == ["a.jpg", "b.png"]
    assert find_source("*.MP4").kind == "video"


def test_options_go_to_the_sources_that_take_them(folder: Path) -> None:
    options = SourceOptions(width=640, stride=2)
    camera, images = find_sources(("camera0", "b.png"), {}, options)
    assert camera.input == options
    assert images.input == SourceOptions(stride=2)


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (SourceOptions(width=640, codec="raw"), ["--input-width", "--input-codec"]),
        (SourceOptions(flip="vertical"), ["--input-flip"]),
        (SourceOptions(latency=0, stride=1), ["--input-latency"]),
        (SourceOptions(retrieval_hysteresis=0), ["--retrieval-hysteresis"]),
    ],
)
def test_unused_options_are_those_that_no_source_takes(folder: Path, options: SourceOptions, flags: list[str]) -> None:
    specs = find_sources(("b.png",), {}, options)
    assert specs[0].input == SourceOptions(stride=options.stride)
    assert [option.flag for option in unused_options(specs, options)] == flags


def test_only_a_folder_can_be_watched(folder: Path) -> None:
    assert [spec.kind for spec in find_sources(("empty", "b.png"), {}, watch=True)] == ["watch", "images"]
