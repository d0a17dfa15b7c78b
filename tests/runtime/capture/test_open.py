"""The frames in files, folders and standard input; every video is encoded here from real images."""

from __future__ import annotations

import functools
import io
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.streams import mjpeg_server

from attri.runtime.capture.base import CapturedFrame
from attri.runtime.capture.jpeg_stream import split_jpegs
from attri.runtime.capture.open import open_source
from attri.runtime.capture.parse import find_source, find_sources
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.errors import ImageError, MissingExtra, SourceError

COUNT, RATE, WIDTH, HEIGHT = 12, 10, 64, 48


def write_video(path: Path, images: list[np.ndarray], codec: str = "libx264") -> Path:
    """The index first (a truncated mp4 without one is not a video), and no frame predicted from a later one."""
    import av

    height, width, _ = images[0].shape
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def shots(image_files: list[Path]) -> list[np.ndarray]:
    images = [Image.open(path).convert("RGB").resize((WIDTH, HEIGHT)) for path in image_files[:COUNT]]
    return [np.asarray(image) for image in images]


def shots_of(spec: SourceSpec) -> Iterator[CapturedFrame]:
    with open_source(spec, 5, threading.Event()) as capture:
        yield from (shot for shot in capture.frames if shot is not None)


def frames(path: Path) -> Iterator[CapturedFrame]:
    return shots_of(find_source(str(path)))


def drain(path: Path) -> tuple[list[CapturedFrame], str]:
    """The frames that came, and the error after them."""
    found: list[CapturedFrame] = []
    with pytest.raises(SourceError) as error:
        found.extend(frames(path))  # keeps what came before the error
    assert "\n" not in str(error.value)
    assert error.value.final
    return found, str(error.value)


def test_an_image_is_one_frame(image_files: list[Path]) -> None:
    (frame,) = frames(image_files[0])
    assert frame.source == str(image_files[0])
    assert isinstance(frame.image, Image.Image)
    assert frame.image.tobytes() == Image.open(image_files[0]).tobytes()


@pytest.mark.parametrize(("name", "words"), [("bad.png", "bad.png"), ("notes.txt", "of no kind that attri reads")])
def test_what_is_no_image_is_a_frame_with_its_error(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("no image")
    (frame,) = frames(tmp_path / name)
    assert isinstance(frame.image, ImageError)
    assert words in str(frame.image)


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "libx264"), ("v.mp4", "mpeg4"), ("v.MKV", "libx264")])
def test_a_video_gives_every_frame_in_its_order(shots: list[np.ndarray], tmp_path: Path, name: str, codec: str) -> None:
    found = list(frames(write_video(tmp_path / name, shots, codec)))
    assert len(found) == COUNT
    np.testing.assert_allclose([frame.time for frame in found], np.arange(COUNT) / RATE, atol=1e-3)  # mkv counts in ms
    # Lossy: each frame is nearer to its own image than to any other.
    distance = [[np.abs(np.asarray(frame.image, float) - shot).mean() for shot in shots] for frame in found]
    assert np.argmin(distance, 1).tolist() == list(range(COUNT))


def test_a_telephones_video_is_turned_upright(shots: list[np.ndarray], tmp_path: Path) -> None:
    """Recorded upright, stored lying: the matrix in the header of the track asks for a quarter turn clockwise."""
    lying = write_video(tmp_path / "lying.mp4", shots)
    data = bytearray(lying.read_bytes())
    start = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2, version 0: flags and 10 words stand before the matrix
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    upright = tmp_path / "upright.mp4"
    upright.write_bytes(data)
    for found, stored in zip(frames(upright), frames(lying), strict=True):
        np.testing.assert_array_equal(found.image, np.rot90(np.asarray(stored.image), -1))
    for path, size in ((lying, f"{WIDTH} x {HEIGHT}"), (upright, f"{HEIGHT} x {WIDTH}")):
        with open_source(find_source(str(path)), 5, threading.Event()) as capture:  # what the log says
            assert capture.description.startswith(f"{size}, 10 fps, h264")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_that_was_cut_off(shots: list[np.ndarray], tmp_path: Path, codec: str) -> None:
    whole = write_video(tmp_path / "whole.mp4", shots, codec)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    found, message = drain(cut)
    assert 2 < len(found) < COUNT
    assert f"cut off after frame {len(found) - 1}" in message or f"damaged after frame {len(found) - 1}" in message
    for frame, wanted in zip(found[:-1], frames(whole), strict=False):  # the last may be half a frame
        np.testing.assert_array_equal(frame.image, wanted.image)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_with_a_damaged_middle(shots: list[np.ndarray], tmp_path: Path, codec: str) -> None:
    whole = write_video(tmp_path / "whole.mp4", shots, codec)
    data = bytearray(whole.read_bytes())
    middle, size = len(data) * 2 // 3, len(data) // 4
    data[middle : middle + size] = bytes(size)
    (tmp_path / "damaged.mp4").write_bytes(data)
    found, message = drain(tmp_path / "damaged.mp4")
    assert 2 < len(found) < COUNT
    assert f"damaged after frame {len(found) - 1}" in message


@pytest.mark.parametrize("data", [b"these are words, not images\n" * 50, b""], ids=["text", "empty"])
def test_a_file_that_is_only_named_a_video(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("av", reason="av is not installed")
    (tmp_path / "words.mp4").write_bytes(data)
    found, message = drain(tmp_path / "words.mp4")
    assert not found
    assert "not a video that can be read" in message


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert "has no video in it" in drain(tmp_path / "sound.mp4")[1]


def test_a_video_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"pip install 'attri\[camera\]'"):
        next(shots_of(SourceSpec("v.mp4", "video", "v.mp4")))


def test_a_video_played_again(shots: list[np.ndarray], tmp_path: Path) -> None:
    spec = find_source(str(write_video(tmp_path / "v.mp4", shots[:3])))
    again = list(shots_of(replace(spec, input=SourceOptions(loop=2))))
    assert [shot.time for shot in again] == pytest.approx([0, 0.1, 0.2] * 3)
    for shot, first in zip(again[3:], again, strict=False):
        np.testing.assert_array_equal(shot.image, first.image)
    with open_source(replace(spec, input=SourceOptions(loop=-1)), 5, threading.Event()) as capture:
        assert len([shot for shot, _ in zip(capture.frames, range(20), strict=False)]) == 20


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])  # FFmpeg goes by the name, as far as it looks at it
def test_a_playlist_in_the_place_of_a_video_opens_no_network(tmp_path: Path, name: str) -> None:
    (tmp_path / "video.mp4").touch()
    spec = replace(find_source(str(tmp_path / "video.mp4")), uri=str(tmp_path / name))
    with mjpeg_server() as server:
        uri = server.uri("/part.ts")
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:1.2,", uri, "#EXT-X-ENDLIST", ""]
        (tmp_path / name).write_text("\n".join(lines))
        with pytest.raises(SourceError):
            list(shots_of(spec))
        assert server.requests == 0


def test_images_shown_again(image_files: list[Path], tmp_path: Path) -> None:
    """Of one that cannot be read it is said once."""
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    spec = SourceSpec("x", "images", "x", (*image_files[:2], bad), SourceOptions(loop=2))
    names = [Path(shot.source).name for shot in shots_of(spec)]
    assert names == [path.name for path in (*image_files[:2], bad, *image_files[:2] * 2)]
    endless = shots_of(replace(spec, input=SourceOptions(loop=-1)))
    assert len([shot for shot, _ in zip(endless, range(20), strict=False)]) == 20
    assert len(list(shots_of(replace(spec, files=(bad,), input=SourceOptions(loop=-1))))) == 1


class Slowly(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    step = 1

    def read1(self, size: int = -1) -> bytes:
        return self.read(self.step)


def as_jpeg(image: np.ndarray, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", **options)
    return data.getvalue()


@pytest.fixture
def jpegs(shots: list[np.ndarray]) -> list[bytes]:
    """Baseline, progressive, with restarts, and with a thumbnail, which is a JPEG inside the JPEG."""
    thumbnail = b"Exif\0\0" + as_jpeg(shots[0])
    outer = as_jpeg(shots[3])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    restarts = as_jpeg(shots[2], restart_marker_blocks=2)
    return [as_jpeg(shots[0]), as_jpeg(shots[1], progressive=True), restarts, outer[:2] + segment + outer[2:]]


@pytest.mark.parametrize("step", [1, 2, 1000, 1 << 20])
@pytest.mark.parametrize("between", [b"", b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n", b"\xff"])
def test_jpegs_in_a_stream(jpegs: list[bytes], step: int, between: bytes) -> None:
    stream = Slowly(between + between.join(jpegs) + between)
    stream.step = step
    assert list(split_jpegs(stream)) == jpegs


def test_a_jpeg_of_a_hundred_megabytes_is_not_cut(jpegs: list[bytes]) -> None:
    """As 200 megapixels can be; here by comments, which take no time to decode."""
    large = jpegs[0][:2] + b"\xff\xfe\xff\xff".ljust(65537, b"x") * 1600 + jpegs[0][2:]
    assert len(large) > 100e6
    assert [len(each) for each in split_jpegs(io.BytesIO(large + jpegs[1]))] == [len(large), len(jpegs[1])]


def test_a_jpeg_that_breaks_off_costs_itself_alone(jpegs: list[bytes]) -> None:
    cut = jpegs[0][:-200]
    assert list(split_jpegs(io.BytesIO(cut + jpegs[1] + jpegs[3] + cut))) == [cut, jpegs[1], jpegs[3], cut]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_jpeg_cut_inside_a_header_costs_itself_alone(jpegs: list[bytes], after: int) -> None:
    """In any segment before the scan."""
    whole, others = jpegs[0], jpegs[1 : 1 + after]
    starts = [2]  # of segments
    while whole[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + int.from_bytes(whole[starts[-1] + 2 : starts[-1] + 4], "big"))
    for start in starts[:-1]:
        for cut in (whole[: start + 4], whole[: start + 9]):
            assert list(split_jpegs(io.BytesIO(cut + b"".join(others)))) == [cut, *others]


@given(
    st.lists(st.sampled_from([b"\xff", b"\xd8", b"\xd9", b"\xda", b"\0", b"\x02", b"\xff\xd8\xff\xe0\0\x10", b"ab"]))
)
def test_any_bytes_are_split_without_loss(parts: list[bytes]) -> None:
    """What comes out is in the stream, in order, and starts as a JPEG does."""
    data = b"".join(parts)
    at = 0
    for found in split_jpegs(io.BytesIO(data)):
        assert found.startswith(b"\xff\xd8")
        at = data.index(found, at) + len(found)


def test_standard_input(jpegs: list[bytes], shots: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join([*jpegs, jpegs[0][:300]]))))
    *found, broken = shots_of(find_source("-"))
    for shot, data in zip(found, jpegs, strict=True):
        np.testing.assert_array_equal(np.asarray(shot.image), np.asarray(Image.open(io.BytesIO(data))))
    assert isinstance(broken.image, ImageError)


class Looks(threading.Event):
    """In the place of the event that ends a watch: before each look the next thing happens, and then it ends."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__()
        self.acts = [*acts]

    def wait(self, timeout: float | None = None) -> bool:
        if self.acts:
            self.acts.pop(0)()
            return False
        return True


def test_images_that_arrive_in_a_watched_folder(image_files: list[Path], tmp_path: Path) -> None:
    """One that is there, one that is written in two parts, one written anew, and what is no image."""
    data = image_files[0].read_bytes()
    old, new, words = (tmp_path / name for name in ("old.png", "new.png", "words.png"))
    old.write_bytes(data)
    (tmp_path / "notes.txt").write_text("no image")
    writes = [(new, data[:100]), (new, data), (words, b"no image"), (old, data + b" ")]
    acts = [functools.partial(path.write_bytes, content) for path, content in writes]
    looks = Looks(*acts, *[time.time] * MANY_LOOKS)
    with open_source(find_source(str(tmp_path), watch=True), 5, looks) as capture:
        assert capture.description == "watched, 1 image already there is left out"
        shots = [shot for shot in capture.frames if shot is not None]
    found = [(Path(shot.source).name, isinstance(shot.image, ImageError)) for shot in shots]
    assert found == [("new.png", False), ("old.png", False), ("words.png", True)]


MANY_LOOKS = 50  # 15 s: longer than the ten seconds after which a damaged file is given up


def test_a_writer_that_pauses_is_waited_for(image_files: list[Path], tmp_path: Path) -> None:
    """Six pauses of eight seconds each: the image comes once, when it is whole, and no error comes before."""
    data = image_files[0].read_bytes()
    parts = [data[start : start + len(data) // 6 + 1] for start in range(0, len(data), len(data) // 6 + 1)]
    with (tmp_path / "slow.png").open("wb", buffering=0) as writer:
        pause = [time.time] * 26
        acts: list[Callable[[], object]] = []
        for part in parts:
            acts += [functools.partial(writer.write, part), *pause]
        spec = find_source(str(tmp_path), watch=True)
        with open_source(spec, 5, Looks(*acts, *[time.time] * MANY_LOOKS)) as capture:
            shots = [shot for shot in capture.frames if shot is not None]
    assert [isinstance(shot.image, ImageError) for shot in shots] == [False]


def test_a_file_that_stays_damaged_is_an_error_once(tmp_path: Path) -> None:
    """It is read when it stops changing and once more at the end, and not at every look."""
    damaged = tmp_path / "damaged.png"
    acts: list[Callable[[], object]] = [functools.partial(damaged.write_bytes, b"no image")]
    acts += [time.time] * 2 * MANY_LOOKS
    with open_source(find_source(str(tmp_path), watch=True), 5, Looks(*acts)) as capture:
        shots = [shot for shot in capture.frames if shot is not None]
    assert [str(shot.image).partition(" is ")[0] for shot in shots] == [str(damaged)]
    assert isinstance(shots[0].image, ImageError)


def test_the_largest_image_that_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (1001, 1000)).save(tmp_path / "large.png")
    (spec,) = find_sources([str(tmp_path)], {}, SourceOptions(megapixels=1))
    with open_source(spec, 5, threading.Event()) as capture:
        (shot,) = capture.frames
    assert "too large: 1001 x 1000 pixels, the limit is 1000000 in all" in str(shot.image)


def test_a_watched_folder_that_goes(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    with open_source(find_source(str(folder), watch=True), 5, threading.Event()) as capture:
        folder.rmdir()
        with pytest.raises(SourceError, match="can no longer be read"):
            next(capture.frames)
