"""Files behind the sources, and the frames behind the files; every video is encoded here from real pictures."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attri.runtime.errors import FailedError, ImageError, MissingExtra, UsageError
from attri.runtime.sources import Frame, frames, resolve

COUNT, RATE, WIDTH, HEIGHT = 12, 10, 64, 48


def write_video(path: Path, pictures: list[np.ndarray], codec: str = "libx264") -> Path:
    """The index first (a truncated mp4 without one is not a video), and no frame predicted from a later one."""
    import av

    height, width, _ = pictures[0].shape
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def shots(picture_files: list[Path]) -> list[np.ndarray]:
    images = [Image.open(path).convert("RGB").resize((WIDTH, HEIGHT)) for path in picture_files[:COUNT]]
    return [np.asarray(image) for image in images]


@pytest.fixture
def folder(picture_files: list[Path], tmp_path: Path) -> Path:
    """Pictures at two depths, hidden ones, and a text file."""
    image = Image.open(picture_files[0]).convert("RGB")
    for name in ("b.png", "a.jpg", "deep/c.PNG", ".hidden.png", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def drain(path: Path) -> tuple[list[Frame], str]:
    """The frames that came, and the error after them."""
    found: list[Frame] = []
    with pytest.raises(FailedError) as error:
        found.extend(frames(path))  # keeps what came before the error
    assert "\n" not in str(error.value)
    return found, str(error.value)


def names(folder: Path, *sources: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in resolve(tuple(f"{folder}/{each}" for each in sources))]


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (["."], ["a.jpg", "b.png", "deep/c.PNG"]),
        (["b.png", "deep", "a.jpg"], ["b.png", "deep/c.PNG", "a.jpg"]),
        (["b.png", "b.png"], ["b.png", "b.png"]),
        (["*.*g"], ["a.jpg", "b.png"]),
        (["**/*.[pP]*"], ["b.png", "deep/c.PNG"]),
        (["notes.txt"], ["notes.txt"]),
    ],
    ids=str,
)
def test_what_is_behind_the_sources(folder: Path, sources: list[str], wanted: list[str]) -> None:
    assert names(folder, *sources) == wanted


@pytest.mark.parametrize("name", ["odd[1].png", "camera_roll.png", "camera"])
def test_a_file_that_is_there_is_taken_by_its_name(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "b.png").rename(folder / name)
    monkeypatch.chdir(folder)
    assert resolve((name,)) == [Path(name)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gone.png", "does not exist"),
        ("camera_roll.png", "does not exist"),
        ("*.bmp", "nothing matches"),
        ("empty", "has no pictures"),
        ("x" * 300, "File name too long"),
        ("camera0", "not supported in this version"),
        ("/dev/video0", "not supported in this version"),
        ("/dev/null", "not supported in this version"),
        ("rtsp://user:secret@host/1", "not supported in this version"),
    ],
)
def test_what_is_no_source(folder: Path, source: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=words) as error:
        resolve(("b.png", source))
    assert "secret" not in str(error.value)


def test_a_picture_is_one_frame(picture_files: list[Path]) -> None:
    (frame,) = frames(picture_files[0])
    assert (frame.source, frame.number) == (str(picture_files[0]), 0)
    assert isinstance(frame.image, Image.Image)
    assert frame.image.tobytes() == Image.open(picture_files[0]).tobytes()


@pytest.mark.parametrize(("name", "words"), [("bad.png", "bad.png"), ("notes.txt", "of no kind that attri reads")])
def test_what_is_no_picture_is_a_frame_with_its_error(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("no picture")
    (frame,) = frames(tmp_path / name)
    assert isinstance(frame.image, ImageError)
    assert words in str(frame.image)


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "libx264"), ("v.mp4", "mpeg4"), ("v.MKV", "libx264")])
def test_a_video_gives_every_frame_in_its_order(shots: list[np.ndarray], tmp_path: Path, name: str, codec: str) -> None:
    found = list(frames(write_video(tmp_path / name, shots, codec)))
    assert [frame.number for frame in found] == list(range(COUNT))
    np.testing.assert_allclose([frame.time for frame in found], np.arange(COUNT) / RATE, atol=1e-3)  # mkv counts in ms
    # Lossy: each frame is nearer to its own picture than to any other.
    distance = [[np.abs(frame.image.astype(float) - shot).mean() for shot in shots] for frame in found]
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
        np.testing.assert_array_equal(found.image, np.rot90(stored.image, -1))


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


@pytest.mark.parametrize("data", [b"these are words, not pictures\n" * 50, b""], ids=["text", "empty"])
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
        next(frames(tmp_path / "v.mp4"))
