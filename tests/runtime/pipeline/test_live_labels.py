"""Labels that change while a pipeline runs: by their file, from outside, for one source or all, and written back."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bench import Bench, camera, video
from support.fakes import FakeClassifier, FakeSink, Step, frames_until, make_frame, wait_for
from support.results import file_size_limit

from attri.runtime.capture.spec import SourceSpec
from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.errors import EngineError, FailedError, LabelsError, UsageError
from attri.runtime.pipeline.live_labels import LabelsFile, LiveLabels


def test_labels_change_while_frames_come(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the file and from outside, within a second; a broken file changes nothing; no frame is lost."""
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\n")
    sink = FakeSink()
    steps: list[Step] = []
    done: dict[str, float] = {}

    def seen(*labels: str) -> bool:
        return bool(sink.results) and sink.results[-1].prediction.labels == labels

    def change(text: str, *labels: str) -> Callable[[], None]:
        def act() -> None:
            file.write_text(text)
            done["/".join(labels)] = time.monotonic()

        return act

    def until(*labels: str) -> Step:
        return frames_until(lambda: seen(*labels))

    broken = f"{file} holds no labels: write one label a line; the labels from before stay"
    steps += [until("cat", "dog"), change("rose = a red rose; a rose\ntulip\n", "rose", "tulip")]
    steps += [until("rose", "tulip")]
    steps += [lambda: bench.pipeline.set_labels("fir\nelm"), until("fir", "elm")]
    steps += [change("", "broken"), frames_until(lambda: broken in caplog.messages)]
    steps += [change("oak\n", "oak"), until("oak")]
    assert bench.make({SourceSpec("-", "stdin", "-"): steps}, file=file).run([sink])  # keeps every frame: none may miss
    order = list(dict.fromkeys(result.prediction.labels for result in sink.results))
    assert order == [("cat", "dog"), ("rose", "tulip"), ("fir", "elm"), ("oak",)]
    for labels in (("rose", "tulip"), ("oak",)):
        first = next(result for result in sink.results if result.prediction.labels == labels)
        assert first.clock - done["/".join(labels)] < 2  # a second is promised, and a busy machine gets another
    assert [result.frame for result in sink.results] == list(range(len(sink.results)))
    assert bench.pipeline.labels() == ["oak"]


def test_a_labels_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog")
    labels = LiveLabels(FakeClassifier(), LabelsFile.read(file))
    for text in ("cat\ndog\nhor", "cat\ndog\nhorse\nbi", "cat\ndog\nhorse\nbird"):
        file.write_text(text)
        labels.poll()
        assert list(map(str, labels.labels)) == ["cat", "dog"]
    labels.poll()
    assert labels.classifier.labels == ("cat", "dog", "horse", "bird")
    before = file.stat()
    file.write_text("cat\ndog\nhorse\nBIRD")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # same time, same size
    labels.poll()
    labels.poll()
    assert labels.classifier.labels[3] == "BIRD"
    file.unlink()
    labels.poll()
    labels.poll()
    assert labels.classifier.labels[3] == "BIRD"


def test_a_pipe_is_not_watched(tmp_path: Path) -> None:
    """Whoever reads it a second time waits for ever, or takes an empty file for the labels."""
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog")
    watched = LiveLabels(FakeClassifier(), LabelsFile.read(file))
    file.unlink()
    os.mkfifo(file)
    writer = threading.Thread(target=file.write_text, args=("rose\ntulip",))
    writer.start()
    piped = LiveLabels(FakeClassifier(), LabelsFile.read(file))
    writer.join()
    for _ in range(3):
        watched.poll()
        piped.poll()
    assert (watched.classifier.labels, piped.classifier.labels) == (("cat", "dog"), ("rose", "tulip"))


def test_of_two_changes_at_once_one_counts_everywhere() -> None:
    entered, go = threading.Event(), threading.Event()

    class Slow(FakeClassifier):
        def set_labels(self, labels: list[str], *rest: object) -> None:
            super().set_labels(labels, *rest)
            if labels == ["first"]:
                entered.set()
                assert go.wait(10)

    labels = LiveLabels(Slow(), None)
    first, second = (threading.Thread(target=labels.set, args=(text,)) for text in ("first", "second"))
    first.start()
    assert entered.wait(10)
    second.start()
    second.join(0.2)
    go.set()
    first.join()
    second.join()
    assert labels.classifier.labels == tuple(map(str, labels.labels)) == ("second",)


def test_labels_as_whoever_edits_them_gets_them(bench: Bench) -> None:
    pipeline = bench.make({camera(): [], camera("camera1"): []})
    pipeline.set_labels("a = b; c\n# no label\nd")
    assert pipeline.labels() == pipeline.labels("camera1") == ["a = b; c", "d"]
    for text, words in [("", "no labels"), ("a = ;", "line 1"), ("unusable", "unusable")]:
        with pytest.raises(LabelsError, match=words):
            pipeline.set_labels(text)
    with pytest.raises(LabelsError, match="no source camera7"):
        pipeline.set_labels("x", "camera7")
    assert pipeline.labels() == ["a = b; c", "d"]


def test_labels_of_one_source_are_its_own_from_then_on(bench: Bench, tmp_path: Path) -> None:
    """Sources share what was encoded until then; an edit of the file is for all of them again."""
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\n")
    pipeline = bench.make({camera(): [], camera("camera1"): [], camera("camera2"): []}, file=file)
    assert len({id(channel.labels[0]) for channel in pipeline.channels}) == 1
    pipeline.set_labels("rose\ncat", "camera0")
    assert pipeline.labels("camera0") == ["rose", "cat"]
    assert pipeline.labels("camera1") == pipeline.labels("camera2") == ["cat", "dog"]
    assert pipeline.labels() == ["rose", "cat", "dog"]
    file.write_text("oak\n")
    for _ in range(2):
        for channel in pipeline.channels:
            channel.labels[0].poll()
    assert pipeline.labels() == ["oak"]
    pipeline.set_labels("fir")
    assert pipeline.labels("camera0") == pipeline.labels("camera1") == ["fir"]


def test_labels_of_one_source_change_what_it_alone_says(bench: Bench) -> None:
    sink = FakeSink()

    def change() -> None:
        wait_for(lambda: len(sink.results) == 1)
        bench.pipeline.set_labels("rose\ntulip", "b.mp4")

    assert bench.make({video("a.mp4"): [make_frame(0), change, make_frame(0)], video("b.mp4"): [make_frame(0)]}).run(
        [sink]
    )
    assert [(result.source, result.label) for result in sink.results] == [
        ("a.mp4", "cat"),
        ("a.mp4", "cat"),
        ("b.mp4", "rose"),
    ]


def test_labels_that_are_refused_change_nothing(bench: Bench, tmp_path: Path) -> None:
    """Not even which file a source follows: an edit of it is still for all of them."""
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\n")
    pipeline = bench.make({camera(): [], camera("camera1"): []}, file=file)
    for text in ("", "x =", "unusable"):
        with pytest.raises(LabelsError):
            pipeline.set_labels(text, "camera0")
    assert pipeline.labels_origin().edited is False
    assert pipeline.labels_text("camera0") == pipeline.labels_text("camera1") == "cat\ndog\n"
    assert len({id(channel.labels[0]) for channel in pipeline.channels}) == 1


def test_labels_of_all_sources_change_together_or_not_at_all(bench: Bench) -> None:
    pipeline = bench.make({camera(): [], camera("camera1"): []})
    pipeline.set_labels("rose", "camera0")
    second = pipeline.channels[1].labels[0].classifier
    second.set_labels = lambda *_: raise_(LabelsError("no room in the engine"))
    with pytest.raises(LabelsError, match="no room"):
        pipeline.set_labels("tulip")
    assert pipeline.labels("camera0") == ["rose"]


def raise_(error: Exception) -> None:
    raise error


def test_an_engine_that_cannot_take_the_file_keeps_the_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Small(FakeClassifier):
        def set_labels(self, labels: list[str], *rest: object) -> None:
            if len(labels) > 2:
                raise EngineError("out of memory")
            super().set_labels(labels, *rest)

    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\n")
    labels = LiveLabels(Small(), LabelsFile.read(file))
    file.write_text("a\nb\nc\n")
    for _ in range(3):
        labels.poll()
    assert labels.classifier.labels == ("cat", "dog")
    assert caplog.messages == ["out of memory; the labels from before stay"]


def test_a_file_that_is_replaced_all_the_time_is_read_whole(tmp_path: Path) -> None:
    """And its state is that of what was read, so that the watcher takes over what came since."""
    file, other = tmp_path / "labels.txt", tmp_path / "new"
    file.write_text("label 0\nother 0\n")
    stop = threading.Event()

    def replace() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            number = 7 ** (number % 50)  # of many lengths
            other.write_text(f"label {number}\nother {number}\n")
            other.replace(file)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(300):
            found = LabelsFile.read(file)
            number = found.labels[0].text.split()[1]
            assert found.text == f"label {number}\nother {number}\n"
            assert isinstance(found.state, tuple)
            assert found.state[1] == len(found.text)
    finally:
        stop.set()
        thread.join()


def test_edited_labels_are_written_to_their_file(bench: Bench, tmp_path: Path) -> None:
    file, link = tmp_path / "real.txt", tmp_path / "labels.txt"
    file.write_text("cat\ndog\n")
    file.chmod(0o640)
    link.symlink_to(file)
    pipeline = bench.make({camera(): [], camera("camera1"): []}, file=link)
    assert pipeline.labels_origin() == FileOrigin(str(link), False, ("camera0", "camera1"))
    pipeline.set_labels("# birds\r\nrose = a rose;a tulip\n", "camera0")
    with pytest.raises(LabelsError, match="different labels: name one"):
        pipeline.write_labels()
    assert pipeline.labels_origin("camera0").edited
    assert not pipeline.labels_origin("camera1").edited
    pipeline.write_labels("camera0")
    assert file.read_text() == "# birds\nrose = a rose;a tulip\n" == pipeline.labels_text("camera0")
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [link, file]
    assert not pipeline.labels_origin("camera0").edited
    for _ in range(2):
        for channel in pipeline.channels:
            channel.labels[0].poll()
    assert pipeline.labels_text() == "# birds\nrose = a rose;a tulip\n"  # the other source has read it
    assert not pipeline.labels_origin().edited


def test_what_cannot_be_written_stays_as_it_was(bench: Bench, tmp_path: Path) -> None:
    assert bench.make({camera(): []}).labels_origin() == FileOrigin(None, False, ())
    with pytest.raises(LabelsError, match="came from no file"):
        bench.pipeline.write_labels()
    file = tmp_path / "labels.txt"
    file.write_text("cat\n")
    pipeline = bench.make({camera(): []}, file=file)
    pipeline.set_labels("bird " * 20_000)
    file.chmod(0o444)
    with pytest.raises(UsageError, match=r"labels.txt is read-only: chmod u\+w it"):
        pipeline.write_labels()
    file.chmod(0o644)
    with file_size_limit(100), pytest.raises(FailedError, match=r"labels.txt cannot be written: File too large"):
        pipeline.write_labels()
    assert file.read_text() == "cat\n"
    assert list(tmp_path.iterdir()) == [file]
    file.write_text("dog\n")
    with pytest.raises(UsageError, match=r"labels.txt was changed by somebody else just now"):
        pipeline.write_labels()
    assert file.read_text() == "dog\n"


def test_a_broken_file_counts_as_edited(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\n")
    labels = LiveLabels(FakeClassifier(), LabelsFile.read(file))
    file.write_text("cat =\n")
    labels.poll()
    labels.poll()
    assert labels.edited
    labels.write()
    assert file.read_text() == "cat\n"
    assert not labels.edited
