"""ConsoleSink, JSON lines, CSV, snapshots and recordings, with disks that are full and runs that are killed."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.results import LABELS, NOW, file_size_limit, make_result

from attri.runtime.deliver.console import ConsoleSink, cell_width, live_line
from attri.runtime.deliver.csv_file import COLUMNS, CsvSink
from attri.runtime.deliver.format import file_name, json_line, text_line
from attri.runtime.deliver.snapshots import SnapshotSink
from attri.runtime.errors import SinkError, UsageError

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


def test_json_names_the_retrieved_entries_where_it_is_asked_to() -> None:
    named: list[list[list[str]]] = [[["apples", "pears"], [], [], ["birds"]], [[]] * 4]
    found = json.loads(json_line(make_result("a.png", attracts=named), 1, why=True))
    assert found["why"] == [
        [
            {"entry": 0, "times": 1, "cosine": 0.5, "attracts": ["apples", "pears"]},
            {"entry": 3, "times": 1, "cosine": 0.6, "attracts": ["birds"]},
        ],
        [{"entry": 1, "times": 2, "cosine": 0.8, "attracts": []}],
    ]
    result = make_result("a.png")
    same_for_all = replace(result, prediction=replace(result.prediction, key_cosines=None))
    assert json.loads(json_line(same_for_all, 1, why=True))["why"] is None


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
