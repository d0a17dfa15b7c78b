"""ConsoleSink, JSON lines, CSV, snapshots and recordings, with disks that are full and runs that are killed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.results import LABELS, NOW, file_size_limit, make_result

from attri.runtime.deliver.console import ConsoleSink, cell_width, live_line
from attri.runtime.deliver.csv_file import COLUMNS, CsvSink
from attri.runtime.deliver.format import file_name, json_line, text_line
from attri.runtime.deliver.snapshots import SnapshotSink
from attri.runtime.deliver.video import VideoSink
from attri.runtime.errors import FailedError, SinkError, UsageError

TESTS = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The rows that stand there after all that was written, on a terminal that knows the four things we tell it.

        It has LINES rows, and above them what has scrolled out of reach.
        """
        rows, row, column = [""], 0, 0
        for up, clear, char in re.findall(r"\x1b\[(\d+)A|(\x1b\[J)|([^\x1b])", self.getvalue(), re.DOTALL):
            if up:
                row = max(row - int(up), len(rows) - int(os.environ.get("LINES", "24")), 0)
            elif clear:
                rows[row:] = [rows[row][:column]]
            elif char == "\r":
                column = 0
            elif char == "\n":
                row, column = row + 1, 0
                rows += [""] * (row == len(rows))
            else:
                rows[row] = rows[row].ljust(column)[:column] + char + rows[row][column + 1 :]
                column += 1
        return rows


def test_json_of_a_live_source() -> None:
    found = json.loads(json_line(make_result(label="かりんご", changed=True, dropped=2), 2))
    assert found == {
        "source": "camera0",
        "frame": 0,
        "time": NOW,
        "label": "かりんご",
        "score": 0.75,
        "top": [{"label": "かりんご", "score": 0.75}, {"label": "red apple", "score": 0.125}],
        "retrieved": [[0, 3], [1, 1]],
        "cache": "hit",
        "latency_ms": {"preprocess": 1.0, "vision": 20.0, "text": 2.0, "total": 23.0},
        "changed": True,
        "age_ms": 41.0,
        "fps": 29.7,
        "dropped": 2,
    }


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (make_result("a.png"), "a.png  red apple 75.0%"),
        (make_result("a.mp4", time=3.5), "a.mp4     3.50s  red apple 75.0%"),
        (make_result(), "2026-09-21T14:13:20.250Z camera0  red apple 75.0%"),
        (make_result("a.png", label=None, score=0.4), "a.png  (none of the labels)  best: red apple 40.0%"),
        (replace(make_result("a.png"), label="bird", score=0.6), "a.png  bird 60.0%  [red apple 75.0%]"),
    ],
)
def test_a_line(result, line: str) -> None:
    assert text_line(result, 1) == line


@pytest.mark.parametrize(
    ("result", "line", "cell", "live"),
    [
        (make_result("cctv.mp4", time=NOW), f"cctv.mp4 {NOW:8.2f}s", "1790000000.250", False),  # Unix time as its PTS
        (make_result(time=12.5), "1970-01-01T00:00:12.500Z camera0", "1970-01-01T00:00:12.500Z", True),  # before NTP
        (make_result("door.png", kind="v4l2"), "2026-09-21T14:13:20.250Z door.png", "2026-09-21T14:13:20.250Z", True),
        (make_result("-", kind="stdin"), "2026-09-21T14:13:20.250Z -", "2026-09-21T14:13:20.250Z", False),
    ],
    ids=["absolute timestamps", "no clock", "a camera named as a file", "standard input"],
)
def test_live_or_file_is_told_by_the_source(tmp_path: Path, result, line: str, cell: str, live: bool) -> None:
    assert text_line(result, 1) == f"{line}  red apple 75.0%"
    assert ("age_ms" in json.loads(json_line(result, 1))) is live
    sink = CsvSink(tmp_path / "log.csv")
    sink.write(result)
    sink.close()
    assert table(tmp_path / "log.csv")[0]["time"] == cell


def test_a_snapshot_of_a_video_is_named_by_the_clock(tmp_path: Path) -> None:
    SnapshotSink(tmp_path, keep=3, topk=1).write(make_result("cctv.mp4", time=NOW, changed=True))
    assert not list(tmp_path.glob("20260921T*"))
    SnapshotSink(tmp_path, keep=3, topk=1).write(make_result(time=12.5, changed=True))
    assert len(list(tmp_path.glob("19700101T000012.500Z_camera0_*"))) == 1


@pytest.mark.parametrize("columns", [120, 60, 30, 5])
@pytest.mark.parametrize("label", ["red apple", "かりんご" * 9, None, "e\u0301" * 50, "\x1b[2J"])
def test_a_row_fits_the_terminal(columns: int, label: str | None) -> None:
    row = live_line(make_result("rtsp://***@10.0.0.7/stream", label=label, dropped=7), columns)
    assert cell_width(row) <= columns
    assert row.isprintable()


def test_cells_of_a_terminal() -> None:
    assert [cell_width(text) for text in ("ab", "かりんご", "e\u0301", "！")] == [2, 8, 1, 2]


def test_a_row_says_it_all() -> None:
    row = live_line(make_result(score=0.5), 79)
    assert re.fullmatch("camera0  red apple +50.0% █████       29.7 fps    41 ms", row)
    assert len(row) == 79


def test_rows_of_two_sources_stay_while_events_scroll() -> None:
    terminal = Terminal()
    console = ConsoleSink("text", 1, terminal)
    for frame in range(3):
        console.write(make_result("camera0", frame, changed=frame == 0))
        console.write(make_result("a.mp4", frame, label="bird", time=frame / 10, changed=frame == 2))
    console.write(make_result("still.png"))
    console.close()
    above = [row.strip() for row in terminal.screen()]
    assert above[0].endswith("Z camera0  red apple 75.0%")
    assert above[1] == "a.mp4     0.20s  bird 75.0%"
    assert any(row.startswith("camera0  red apple  ") for row in above[2:])
    assert any(row.startswith("a.mp4  bird  ") for row in above[2:])
    assert "still.png  red apple 75.0%" in above


def test_rows_of_clips_that_are_over_scroll_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """More clips than the terminal has rows, and after them a camera, whose row alone is written over."""
    monkeypatch.setenv("LINES", "6")
    terminal = Terminal()
    console = ConsoleSink("text", 1, terminal)
    for clip in range(10):
        for frame in range(3):
            console.write(make_result(f"{clip}.mp4", frame, time=frame / 10, changed=frame == 0))
        console.source_ended(f"{clip}.mp4")
    for frame in range(3):
        console.write(make_result("camera0", frame))
    console.close()
    rows = [row.split()[0] for row in terminal.screen() if row.strip()]
    assert rows == [f"{clip}.mp4" for clip in range(10) for _ in ("the change", "the last row")] + ["camera0"]


def test_a_task_has_a_row_of_its_own() -> None:
    terminal = Terminal()
    console = ConsoleSink("text", 1, terminal)
    for frame in range(3):
        for task, label in (("defects", "bird"), ("fill", "red apple")):
            console.write(make_result("camera0", frame, task=task, label=label))
    rows = [row.split()[:3] for row in terminal.screen() if row.strip()]
    assert rows == [["camera0", "defects", "bird"], ["camera0", "fill", "red"]]
    console.source_ended("camera0")
    console.close()
    assert [row.split()[1] for row in terminal.screen() if row.strip()] == ["defects", "fill"]


def test_no_more_rows_than_the_terminal_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "6")
    terminal = Terminal()
    console = ConsoleSink("text", 1, terminal)
    for frame in range(5):
        for camera in range(9):
            console.write(make_result(f"camera{camera}", frame))
    *rows, more = [row for row in terminal.screen() if row.strip()]
    assert [row.split()[0] for row in rows] == ["camera0", "camera1", "camera2", "camera3"]
    assert more == "… and 5 more sources"
    for camera in range(7):
        console.source_ended(f"camera{camera}")
    console.close()
    assert [row.split()[0] for row in terminal.screen() if row.strip()] == [f"camera{camera}" for camera in range(9)]


def test_log_lines_go_above_the_rows() -> None:
    """And never away with them, nor into what is left of one."""
    terminal = Terminal()
    root, handler = logging.getLogger(), logging.StreamHandler(terminal)
    root.addHandler(handler)
    try:
        console = ConsoleSink("text", 1, terminal)
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            console.write(make_result(name, time=0.0))
        logging.getLogger("attri").warning("camera0: lost")
        console.write(make_result("a.mp4", time=0.1))
        console.close()
        logging.getLogger("attri").warning("done")
    finally:
        root.removeHandler(handler)
    rows = [row.split("  ")[0].strip() for row in terminal.screen() if row.strip()]
    assert rows == ["camera0: lost", "a.mp4", "b.mp4", "c.mp4", "done"]


def test_no_terminal_no_escapes() -> None:
    out = io.StringIO()
    console = ConsoleSink("text", 1, out)
    console.write(make_result("a.mp4", time=0.0, changed=True))
    console.close()
    assert out.getvalue() == "a.mp4     0.00s  red apple 75.0%\n"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for start in (0, 2):
        sink = CsvSink(path)
        for frame in (start, start + 1):
            sink.write(make_result('odd, "name"', frame, label=None if frame else "かりんご", changed=not frame))
        assert len(path.read_bytes().splitlines()) == 1 + start + 2  # before it is closed
        sink.close()
    rows = table(path)
    assert tuple(rows[0]) == COLUMNS
    assert [row["frame"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0] == {
        "source": 'odd, "name"',
        "frame": "0",
        "time": "2026-09-21T14:13:20.250Z",
        "label": "かりんご",
        "score": "0.750000",
        "changed": "1",
        "age_ms": "41.0",
        "dropped": "0",
    }
    assert rows[1]["label"] == ""


def test_a_torn_row_goes(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    sink = CsvSink(path)
    sink.write(make_result())
    sink.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b"camera0,1,2026-0")  # as a power cut leaves it
    CsvSink(path).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("cut", [1, 7, -1])
def test_a_torn_header_is_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.csv"
    CsvSink(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])  # as a kill leaves it
    sink = CsvSink(path)
    sink.write(make_result())
    sink.close()
    assert path.read_bytes().startswith(whole)
    assert [row["frame"] for row in table(path)] == ["0"]


def test_a_csv_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("name,age\nAnn,7\n")
    with pytest.raises(UsageError, match="another table"):
        CsvSink(path)
    assert path.read_text() == "name,age\nAnn,7\n"
    with pytest.raises(UsageError, match="No such file"):
        CsvSink(tmp_path / "gone" / "log.csv")


def test_a_full_disk_tears_no_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    sink = CsvSink(path)
    sink.write(make_result())
    with file_size_limit(path.stat().st_size + 20), pytest.raises(SinkError, match=r"log\.csv: "):
        sink.write(make_result(frame=1))
    sink.write(make_result(frame=2))
    sink.close()
    assert [row["frame"] for row in table(path)] == ["0", "2"]


def test_a_device_that_is_full() -> None:
    with pytest.raises(UsageError, match="No space left"):
        CsvSink(Path("/dev/full"))


def test_a_snapshot_has_its_name_once_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "os.fsync",
        lambda file: synced.append(
            (Path(f"/proc/self/fd/{file}").readlink().suffix, bool(list(tmp_path.glob("*.jpg"))))
        ),
    )
    SnapshotSink(tmp_path, keep=3, topk=1).write(make_result(changed=True))
    assert synced == [(".part", False), ("", True)]  # the file, then its folder
    assert [file.suffix for file in tmp_path.iterdir()] == [".jpg"]


def test_snapshots_of_events(tmp_path: Path, image_files: list[Path]) -> None:
    sink = SnapshotSink(tmp_path / "new" / "shots", keep=3, topk=1)
    (tmp_path / "new" / "shots" / "mine.jpg").write_bytes(b"not ours")
    for frame in range(0, 10, 2):
        sink.write(make_result("rtsp://***@host/a", frame, image=image_files[frame], changed=True))
    names = sorted(file.name for file in (tmp_path / "new" / "shots").iterdir())
    assert names == [
        "20260921T141320.650Z_rtsp-host-a_red-apple_4.jpg",
        "20260921T141320.850Z_rtsp-host-a_red-apple_6.jpg",
        "20260921T141321.050Z_rtsp-host-a_red-apple_8.jpg",
        "mine.jpg",
    ]
    shot = Image.open(tmp_path / "new" / "shots" / names[2])
    assert json.loads(shot.info["comment"])["frame"] == 8
    truth = np.asarray(Image.open(image_files[8]).convert("RGB"), np.float32)
    assert np.abs(np.asarray(shot, np.float32) - truth).mean() < 6  # JPEG at quality 90 of drawn images


def test_snapshots_count_those_of_an_earlier_run(tmp_path: Path) -> None:
    for frame in range(4):
        sink = SnapshotSink(tmp_path, keep=2, topk=1)
        sink.write(make_result(frame=frame, changed=True))
    assert [file.name.split("_")[-1] for file in sorted(tmp_path.iterdir())] == ["2.jpg", "3.jpg"]


def test_two_processes_in_one_snapshots_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first one writes: its unfinished file is left alone, what a kill tore goes."""
    first = SnapshotSink(tmp_path, keep=9, topk=1)
    first.write(make_result(changed=True))
    (shot,) = tmp_path.iterdir()
    torn = tmp_path / f".{shot.name}.0123abcd.part"
    torn.write_bytes(b"torn")
    os.utime(torn, (NOW - 1e6, NOW - 1e6))
    mine = tmp_path / ".mine.jpg.part"
    mine.write_bytes(b"not ours")
    os.utime(mine, (NOW - 1e6, NOW - 1e6))
    sync = os.fsync

    def begin(file: int) -> None:
        SnapshotSink(tmp_path, keep=9, topk=1)
        sync(file)

    monkeypatch.setattr("os.fsync", begin)
    first.write(make_result(frame=1, changed=True))
    names = sorted(file.name.split("_")[-1] for file in tmp_path.iterdir())
    assert names == [".mine.jpg.part", "0.jpg", "1.jpg"]


def test_a_snapshot_on_a_full_disk(tmp_path: Path, image_files: list[Path]) -> None:
    sink = SnapshotSink(tmp_path, keep=2, topk=1)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with file_size_limit(10_000), pytest.raises(SinkError, match=str(tmp_path)):
        sink.write(make_result(image=noise, changed=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b", "\udcff", "", "...", "語" * 200, "a/b\\c:d*e"])
def test_names_of_files_are_safe(name: str) -> None:
    safe = file_name(name)
    assert 1 <= len(safe.encode()) <= 80
    assert not set(safe) & set("/\\\0:*")
    assert safe.strip(".") != ""


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


def test_every_label_can_be_drawn() -> None:
    from attri.runtime.deliver.annotate import annotate

    for label in (*LABELS, None, "\n", "x" * 500):
        for shape in ((48, 64, 3), (1, 1, 3), (9, 2000, 3)):
            result = make_result("\udcff", label=label, image=np.zeros(shape, np.uint8))
            assert annotate(result).shape == shape


def test_console_passes_a_broken_pipe_on_and_counts_a_full_disk() -> None:
    class Gone(io.StringIO):
        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.error = error

        def flush(self) -> None:
            raise self.error

    with pytest.raises(BrokenPipeError):
        ConsoleSink("json", 1, Gone(BrokenPipeError())).write(make_result())
    with pytest.raises(SinkError, match="stdout: No space left"):
        ConsoleSink("json", 1, Gone(OSError(28, "No space left on device"))).write(make_result())
