"""Recordings as players read them: frames, times, names, full disks and broken encoders."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.results import NOW, file_size_limit, make_result

from attri.runtime.deliver.video import VideoSink
from attri.runtime.errors import FailedError, SinkError, UsageError

TESTS = Path(__file__).parents[2]


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_a_recording_holds_what_was_seen(tmp_path: Path, image_files: list[Path]) -> None:
    sink = VideoSink(tmp_path / "out.mp4")
    images = [np.asarray(Image.open(p).convert("RGB").resize((321, 241))) for p in image_files[:6]]
    for frame, shown in enumerate(images):
        sink.write(make_result(frame=frame, time=NOW + frame / 5, image=shown))
    sink.close()
    found = frames(tmp_path / "out.mp4")
    assert [moment for moment, _ in found] == pytest.approx([frame / 5 for frame in range(6)], abs=1e-3)
    for (_, image), shown in zip(found, images, strict=True):
        assert image.shape == (240, 320, 3)
        difference = np.abs(image.astype(np.float32) - shown[:240, :320]).mean((1, 2))
        assert difference[:200].mean() < 8  # lossy, and colour at half the resolution
        assert difference[-12:].mean() > 20  # the strip


def test_a_recording_plays_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    code = f"""
import sys, time; sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from support.results import make_result
from attri.runtime.deliver.video import VideoSink
sink = VideoSink(Path({str(path)!r}))
for frame in range(95):  # at 10 a second
    sink.write(make_result(frame=frame))
print("written", flush=True)
time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "written\n"
        run.kill()
    found = frames(path)
    assert 95 - 11 <= len(found) <= 95  # at most the last second is lost
    assert found[-1][0] == pytest.approx((len(found) - 1) / 10, abs=1e-3)


def test_a_recording_is_never_written_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (tmp_path / "out.mp4").write_bytes(b"precious")
    sink = VideoSink(tmp_path / "out.mp4")
    sink.write(make_result())
    sink.close()
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"
    assert len(frames(tmp_path / "out-2.mp4")) == 1
    assert f"recording all sources to {tmp_path}/out-2.mp4 (out.mp4 is already there and is kept)" in caplog.text


def test_sources_in_files_of_their_own_or_one_after_another(tmp_path: Path) -> None:
    apart, together = VideoSink(tmp_path / "{source}.mp4"), VideoSink(tmp_path / "all.mp4")
    for sink in (apart, together):
        for name, size in (("a.png", (48, 64)), ("rtsp://h/b", (90, 64))):
            sink.write(make_result(name, image=np.full((*size, 3), 200, np.uint8)))
        sink.close()
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["a.mp4", "all.mp4", "rtsp-h-b.mp4"]
    assert frames(tmp_path / "rtsp-h-b.mp4")[0][1].shape == (90, 64, 3)
    (first, _), (second, fitted) = frames(tmp_path / "all.mp4")
    assert (first, second) == (0, 0.5)
    assert fitted.shape == (48, 64, 3)
    assert fitted[10, 2].max() < 40 < 150 < fitted[10, 32].min()  # a border beside the narrower image


@pytest.mark.parametrize(
    ("shots", "wanted"),
    [
        ([("camera0", 7.0), ("camera1", 7.1), ("camera0", 7.2), ("camera1", 7.3)], [0, 0, 0.2, 0.2]),
        ([("v.mp4", 0.0), ("v.mp4", 0.1), ("v.mp4", 0.0), ("v.mp4", 0.1)], [0, 0.1, 0.2, 0.3]),
        ([("a.mp4", 0.0), ("a.mp4", 0.1), ("b.mp4", 0.0), ("b.mp4", 0.2)], [0, 0.1, 0.2, 0.4]),
        ([("a.png", 7.0), ("b.png", 7.1), ("a.png", 7.2), ("camera0", 9.0)], [0, 0.5, 1.0, 1.5]),
        ([("camera0", 7.0), ("camera0", 3600.0)], [0, 3593]),  # it was away for an hour
    ],
    ids=["two cameras", "a loop", "two videos", "images", "a gap"],
)
def test_times_of_a_recording(tmp_path: Path, shots: list[tuple[str, float]], wanted: list[float]) -> None:
    """By the clock that nobody sets, whatever wall time says."""
    sink = VideoSink(tmp_path / "out.mp4")
    for frame, (source, clock) in enumerate(shots):
        sink.write(make_result(source, frame, clock=clock, time=NOW - 3600 * frame))
    sink.close()
    assert [moment for moment, _ in frames(tmp_path / "out.mp4")] == pytest.approx(wanted, abs=4e-3)


def test_a_recording_on_a_full_disk_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attri.runtime.deliver.video.RETRY", 0.0)
    path, random = tmp_path / "out.mp4", np.random.default_rng(0)
    sink = VideoSink(path)
    noise = (make_result(frame=frame, image=random.integers(0, 256, (96, 128, 3), np.uint8)) for frame in range(200))
    with file_size_limit(300_000), pytest.raises(SinkError, match=str(tmp_path)):
        all(sink.write(result) is None for result in noise)
    assert len(frames(path)) > 10
    sink.write(make_result(frame=200))  # there is room again
    sink.close()
    assert len(frames(tmp_path / "out-2.mp4")) == 1


@pytest.mark.parametrize("size", [0, 400, 2000])
def test_a_full_disk_fills_with_no_empty_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("attri.runtime.deliver.video.RETRY", 0.0)
    sink = VideoSink(tmp_path / "out.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    with file_size_limit(size):
        for frame in range(30):
            with contextlib.suppress(SinkError):
                sink.write(make_result(frame=frame, image=noise))
        with contextlib.suppress(SinkError):
            sink.close()
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_recording_that_finds_no_room_is_told(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "{source}.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    for source in ("camera0", "camera1"):
        sink.write(make_result(source, image=noise))
    with file_size_limit(0), pytest.raises(SinkError, match=str(tmp_path)):
        sink.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.avi", "out", "gone/out.mp4"])
def test_a_recording_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        VideoSink(tmp_path / name)


def test_an_ffmpeg_without_h264_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attri.runtime.deliver.video.CODEC", "libx264-that-is-not-there")
    with pytest.raises(FailedError, match=r"has no encoder .* pip install"):
        VideoSink(tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["libx264-that-is-not-there", "png"])  # unknown; known, and of no use in an MP4
def test_an_encoder_that_cannot_be_opened_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    sink = VideoSink(tmp_path / "out.mp4")
    monkeypatch.setattr("attri.runtime.deliver.video.CODEC", codec)
    monkeypatch.setattr("attri.runtime.deliver.video.ENCODER", {"pred": "nothing"})
    with pytest.raises(SinkError, match=str(tmp_path)):
        sink.write(make_result())
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_folder_are_one_recording(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out-{source}.mp4")
    for number in range(70):
        sink.write(make_result(f"inbox/{number}.png", origin="inbox", kind="watch"))
    sink.close()
    assert [file.name for file in tmp_path.iterdir()] == ["out-inbox.mp4"]
    assert len(frames(tmp_path / "out-inbox.mp4")) == 70


def test_a_recording_is_closed_with_its_source(tmp_path: Path) -> None:
    """Any number of clips, one after the other."""
    sink = VideoSink(tmp_path / "out-{source}.mp4")
    for number in range(70):
        sink.write(make_result(f"{number}.mp4", time=0.0))
        sink.source_ended(f"{number}.mp4")
    assert len(list(tmp_path.iterdir())) == 70
    assert all(len(frames(file)) == 1 for file in tmp_path.iterdir())
    sink.close()


def test_clips_of_one_name_get_numbers_and_the_log_tells_them_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sink = VideoSink(tmp_path / "out-{source}.mp4")
    for folder in ("front", "back"):
        sink.write(make_result(f"{folder}/1.mp4", time=0.0))
    sink.close()
    assert [line for line in caplog.messages if "recording" in line] == [
        f"recording front/1.mp4 to {tmp_path}/out-1.mp4",
        f"recording back/1.mp4 to {tmp_path}/out-1-2.mp4 (out-1.mp4 is already there and is kept)",
    ]


def test_one_recording_of_all_sources_outlives_each(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4")
    for source in ("a.mp4", "b.mp4"):
        sink.write(make_result(source, time=0.0))
        sink.source_ended(source)
    sink.close()
    assert len(frames(tmp_path / "out.mp4")) == 2


@pytest.mark.parametrize(
    ("origin", "kind", "name"),
    [
        ("clips/a.MP4", "video", "out-a.mp4"),
        ("a.mp4 (2)", "video", "out-a-2.mp4"),
        ("photos/*.jpg", "images", "out-photos.mp4"),
        ("front.png", "v4l2", "out-front.png.mp4"),
        ("v1.2", "watch", "out-v1.2.mp4"),
        ("rtsp://host/a.mp4", "stream", "out-rtsp-host-a.mp4"),
        ("photos/front/", "images", "out-front.mp4"),
    ],
)
def test_names_of_recordings(tmp_path: Path, origin: str, kind: str, name: str) -> None:
    sink = VideoSink(tmp_path / "out-{source}.mp4")
    sink.write(make_result(origin, kind=kind))
    sink.close()
    assert [file.name for file in tmp_path.iterdir()] == [name]
