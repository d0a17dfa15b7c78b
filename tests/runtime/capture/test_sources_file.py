"""The sources file: what a person may write there, and what nobody would."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attri.runtime.capture.orientation import FLIPS
from attri.runtime.capture.parse import find_sources
from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.errors import UsageError


def write(folder: Path, text: str) -> Path:
    path = folder / "sources.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_sources_file(folder: Path) -> None:
    path = write(
        folder,
        """
        [door]
        uri = "rtsp://user:secret@host/1"
        labels = "door.txt"
        template = "a photo of a {}."
        threshold = 0.5
        roi = [0, 0, 64, 48]
        stride = 2
        latency = 200
        flip = "clockwise"
        ["Halle 3"]
        uri = "camera1"
        width = 640
        height = 480
        rate = 29.97
        codec = "raw"
        [past]
        uri = "clip.MP4"
        loop = -1
        [inbox]
        uri = "empty"
        watch = true
        """,
    )
    named = read_sources(path)
    assert list(named) == ["door", "Halle 3", "past", "inbox"]
    door = named["door"]
    assert (door.name, door.kind, door.uri) == ("door", "stream", "rtsp://user:secret@host/1")
    assert (door.labels, door.template, door.threshold) == (folder / "door.txt", "a photo of a {}.", 0.5)
    assert door.input == SourceOptions(flip="clockwise", latency=200, stride=2, roi=(0, 0, 64, 48))
    assert named["Halle 3"].input == SourceOptions(width=640, height=480, rate=29.97, codec="raw")
    assert named["past"].input.loop == -1
    assert named["inbox"].kind == "watch"
    (spec,) = find_sources(("door",), named, SourceOptions(stride=9, flip="none"))
    assert spec.input.stride == 2  # the file's word counts more


def test_paths_are_meant_from_the_sources_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, '[clip]\nuri = "clip.MP4"')
    monkeypatch.chdir("/")
    assert read_sources(path)["clip"].uri == str(folder / "clip.MP4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no sources"),
        ("[door", "is not TOML"),
        ("door = 1", r"door must be a table: write \[door\]"),
        ("[door]", "door has no uri"),
        ('[door]\nuri = ""', "door.uri cannot be ''"),
        ("[door]\nuri = 3", "door.uri cannot be 3"),
        ('[door]\nurl = "camera0"', "door.url is not known: use uri, "),
        ('[door]\nuri = "gone.png"', r"sources\.toml: door\.uri: gone\.png does not exist"),
        ('[door]\nuri = "rtsp://user:secret@host:x"', r"door\.uri: rtsp://\*\*\*@host:x: the port must be"),
        ('[door]\nuri = "camera0"\nwidth = 0', "door.width cannot be 0"),
        ('[door]\nuri = "camera0"\nwidth = true', "door.width cannot be True"),
        ('[door]\nuri = "camera0"\nrate = nan', "door.rate cannot be nan"),
        ('[door]\nuri = "camera0"\nrate = "fast"', "door.rate cannot be 'fast'"),
        ('[door]\nuri = "camera0"\ncodec = "h264"', "door.codec cannot be 'h264'"),
        ('[door]\nuri = "camera0"\nflip = "left"', "door.flip cannot be 'left'"),
        ('[door]\nuri = "camera0"\nroi = [0, 0, 0, 9]', r"door.roi cannot be \[0, 0, 0, 9\]"),
        ('[door]\nuri = "camera0"\nroi = [0, 0, 9]', "door.roi"),
        ('[door]\nuri = "camera0"\ntemplate = "a photo"', "door.template"),
        ('[door]\nuri = "camera0"\nthreshold = 2', "door.threshold"),
        ('[door]\nuri = "camera0"\nlatency = 5', "door takes no latency"),
        ('[door]\nuri = "camera0"\nwatch = true', "door.watch is for a folder"),
        ('[door]\nuri = "[bc]*.*[g4]"', r"\[bc\]\*\.\*\[g4\] matches 2 sources, where one is meant"),
        ('[door]\nuri = "b.png"\nwidth = 5', "door takes no width"),
        ('[door]\nuri = "http://host/cam"\nlatency = 5', "door takes no latency"),
        ('[door]\nuri = ["rtsp://user:secret@host"]', r"door.uri cannot be \['rtsp://\*\*\*@host'\]"),
    ],
)
def test_a_wrong_sources_file(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        read_sources(write(folder, text))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sources_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_sources(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_sources(tmp_path)


_KEYS = st.sampled_from([*asdict(SourceOptions()), "uri", "labels", "template", "threshold", "watch", "other"])
_VALUES = st.one_of(
    st.sampled_from(
        ['"camera0"', '"rtsp://h/1"', '"a {}"', '"\\u0000"', "[1, 2, 3, 4]", "{a = 1}", "inf", "1e999", "-1"]
    ),
    st.integers().map(str),
    st.floats(0, 1).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from([*FLIPS]).map(lambda value: f'"{value}"'),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.dictionaries(_KEYS, _VALUES))
def test_any_table_is_a_source_or_one_line_that_says_why_not(tmp_path: Path, table: dict[str, str]) -> None:
    text = "[door]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    result: SourceSpec | UsageError
    try:
        (result,) = read_sources(write(tmp_path, text)).values()
    except UsageError as error:
        result = error
    assert isinstance(result, SourceSpec) or "\n" not in str(result)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sources.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as error:
        read_sources(path)
    assert "\n" not in str(error.value)
