"""`attri-run` as a person or a program meets it: what stands on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from support.fakes import wait_for

from attri.runtime import Classifier
from attri.runtime.bundle import PROMPT, TEXT
from attri.runtime.capture.frame_queue import FrameQueue
from attri.runtime.cli.run import main
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.prompt import Prompt
from attri.runtime.prompt_file.training_images import TrainingImages

LABELS = ["red apple", "かりんご", "bird"]


class Finished(NamedTuple):
    code: str | int | None
    out: str
    err: str

    @property
    def objects(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def attri_run(bundle: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Finished]]:
    """The command in this process, with a bundle and labels unless told otherwise."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*args: object, bundle: Path = bundle, labels: Path = labels) -> Finished:
        words = [*map(str, args), "--bundle", str(bundle), "--labels", str(labels), "--threads", "1"]
        with pytest.raises(SystemExit) as stop:
            main(words, prog_name="attri-run")
        return Finished(stop.value.code, *capsys.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_hold_what_the_documentation_says(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path]
) -> None:
    result = attri_run(*image_files[:2], "--json", "--topk", 2)
    assert result.code == 0
    classifier = Classifier.load(bundle, LABELS, threads=1)
    for path, found in zip(image_files, result.objects, strict=False):
        wanted = classifier(path)
        latency, moment = found.pop("latency_ms"), found.pop("time")
        assert list(latency) == ["preprocess", "vision", "text", "total"]
        assert all(type(value) is float and value >= 0 for value in latency.values())
        assert type(moment) is float
        assert found == {
            "source": str(path),
            "frame": 0,
            "label": wanted.label,
            "score": round(wanted.score, 6),
            "top": [{"label": label, "score": round(score, 6)} for label, score in wanted.top(2)],
            "retrieved": wanted.retrieved.tolist(),
            "cache": wanted.cache,
        }


def test_explanations_add_up_to_what_was_seen(
    attri_run: Callable[..., Finished], explained_bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    result = attri_run(*image_files[:2], "--explain", tmp_path / "why", "--json", bundle=explained_bundle)
    assert result.code == 0
    classifier = Classifier.load(explained_bundle, LABELS, threads=1)
    files = sorted((tmp_path / "why").iterdir())
    assert [file.suffix for file in files] == [".json", ".png"] * 2
    found = {each["source"]: each for each in (json.loads(file.read_text()) for file in files[::2])}
    for path, printed in zip(image_files, result.objects, strict=False):
        explained = found[str(path)]
        assert explained["explanations"][0]["label"] == printed["label"]
        cosines = dict(zip(LABELS, classifier.explain(path).cosines, strict=True))
        for each in explained["explanations"]:
            total = sum(map(sum, each["patches"])) + each["rest"]
            assert total == pytest.approx(cosines[each["label"]], abs=1e-4)  # of 65 numbers with 6 digits


def test_why_names_the_nearest_training_images_that_the_prompt_keeps(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    plain = Prompt.read(bundle / PROMPT)
    with Classifier.load(bundle, threads=1) as classifier:
        features = classifier.embed_images(image_files[:6])
    images = TrainingImages.of(features, [("thing", path.name) for path in image_files[:6]])
    Prompt.of(plain.facts, plain.tensors, images).save(tmp_path / "kept.attri")
    result = attri_run(*image_files[:2], "--json", "--why", "--prompt", tmp_path / "kept.attri")
    for row, (path, found) in enumerate(zip(image_files, result.objects, strict=False)):
        cosines = features @ features[row]
        wanted = [image_files[place].name for place in np.argsort(-cosines)[:3]]
        assert [each["image"] for each in found["nearest_images"]] == wanted
        near = found["nearest_images"][0]
        assert near == {"image": path.name, "label": "thing", "cosine": pytest.approx(1, abs=1e-3)}  # of float16
    assert "--keep-features" not in result.err
    result = attri_run(image_files[0], "--json", "--why")
    assert "nearest_images" not in result.objects[0]
    assert "export it again with attri-export --keep-features" in result.err


def test_without_the_graph_of_explanations_nothing_is_classified(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    result = attri_run(image_files[0], "--explain", tmp_path / "why", bundle=bundle)
    assert result.code == 2
    assert "export it again with attri-export --explain" in result.err
    assert result.out == ""


def test_a_folder_in_batches_says_the_same(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(image_files[:5]):
        shutil.copy(path, folder / f"{number}.png")
    single, batched = (attri_run(folder, "--json", "--max-batch", size) for size in (1, 4))
    assert (single.code, batched.code) == (0, 0)
    assert len(batched.objects) == 5
    for one, other in zip(single.objects, batched.objects, strict=True):
        for name in ("source", "frame", "label", "cache"):
            assert one[name] == other[name]
        assert abs(one["score"] - other["score"]) < 1e-4  # another order of the sums


def test_a_batch_goes_through_the_vision_graph_at_once(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(41):
        shutil.copy(image_files[0], tmp_path / f"{number:02}.png")
    read: list[int] = []
    sizes: list[int] = []
    put, run = FrameQueue.put, OrtEngine.run

    def putting(self: FrameQueue, *args: Any) -> None:
        put(self, *args)
        read.append(1)

    def running(self: OrtEngine, inputs: dict[str, Any]) -> Any:
        if "pixels" in inputs and read:  # not the reference image of the load
            sizes.append(len(inputs["pixels"]))
            wait_for(lambda: len(read) == 41)  # then what comes next is a whole batch
        return run(self, inputs)

    monkeypatch.setattr(FrameQueue, "put", putting)
    monkeypatch.setattr(OrtEngine, "run", running)
    assert attri_run(tmp_path, "--max-batch", 20).code == 0
    assert (sum(sizes), max(sizes)) == (41, 20)


@pytest.mark.parametrize("topk", [1, 2, 99])
def test_a_line_for_a_person(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], topk: int
) -> None:
    best = Classifier.load(bundle, LABELS, threads=1)(image_files[0]).top(topk)
    result = attri_run(image_files[0], "--topk", topk)
    scores = "  ".join(f"{label} {score:.1%}" for label, score in best)
    assert (result.code, result.out) == (0, f"{image_files[0]}  {scores}\n")
    assert result.err.splitlines()[0].endswith("on cpu, 3 labels")
    assert result.err.splitlines()[1] == "1 frame, 0% from the text cache"


def test_below_the_threshold(attri_run: Callable[..., Finished], image_files: list[Path]) -> None:
    path = image_files[0]
    (found,) = attri_run(path, "--threshold", 1, "--json").objects
    assert found["label"] is None
    (best,) = found["top"]
    line = f"{path}  (none of the labels)  best: {best['label']} {found['score']:.1%}\n"
    assert attri_run(path, "--threshold", 1).out == line
    assert attri_run(path, "--threshold", 0, "--json").objects[0]["label"] == best["label"]


def write_video(path: Path, images: list[Path]) -> Path:
    """64 x 64, 10 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in images:
            shot = np.asarray(Image.open(image).convert("RGB").resize((64, 64)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("options", [(), ("--threshold", "0.5")], ids=str)
def test_one_label_is_warned_of_at_start_and_once(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "one.txt").write_text("cat\n")
    result = attri_run(*image_files[:2], *options, labels=tmp_path / "one.txt")
    assert result.code == 0
    assert result.err.splitlines()[0].startswith('one label ("cat") always scores 100%, whatever the threshold')
    assert result.err.count("one label") == 1


def test_a_video(attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [image_files[0]] * 4)
    found = attri_run(path, "--json").objects
    assert [(each["source"], each["frame"], each["time"]) for each in found] == [
        (str(path), i, pytest.approx(i / 10)) for i in range(4)
    ]
    lines = attri_run(path).out.splitlines()
    assert [line[: len(str(path)) + 10] for line in lines] == [f"{path}     0.{i}0s" for i in range(4)]


def test_steady_retrieval_remembers_each_video_by_itself(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    """As the classifier does with a memory for each; with a margin that nothing exceeds, the first frame's entries."""
    clips = [write_video(tmp_path / f"{i}.mkv", image_files[4 * i : 4 * i + 4]) for i in range(2)]
    exact = attri_run(*clips, "--json").objects
    assert attri_run(*clips, "--json", "--retrieval-hysteresis", 0).objects[3]["retrieved"] == exact[3]["retrieved"]
    held = attri_run(*clips, "--json", "--retrieval-hysteresis", 2).objects
    assert [each["retrieved"] for each in held] == [exact[i]["retrieved"] for i in (0, 0, 0, 0, 4, 4, 4, 4)]
    assert len({str(each["retrieved"]) for each in exact}) > 2
    assert (
        "--retrieval-hysteresis: none of the sources takes it"
        in attri_run(image_files[0], "--retrieval-hysteresis", 0).err
    )


def test_images_beside_a_video_are_taken_at_their_word(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path
) -> None:
    """A minimum duration that nothing reaches decides nothing of the video, and means nothing to images."""
    clip = write_video(tmp_path / "v.mkv", image_files[:2])
    found = attri_run(clip, *image_files[:3], "--json", "--min-duration", 60).objects
    assert [each["label"] is None for each in found] == [True, True, False, False, False]


def test_an_unreadable_image_stops_no_other(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(image_files[0].read_bytes()[:100])
    result = attri_run(image_files[0], bad, tmp_path / "labels.txt", image_files[1], "--json")
    assert result.code == 1
    assert [each["source"] for each in result.objects] == [str(image_files[0]), str(image_files[1])]
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert [str(path) in line for path, line in zip((bad, tmp_path / "labels.txt"), errors, strict=True)] == [True] * 2
    assert result.err.splitlines()[-1] == "2 frames, 0% from the text cache, 2 files failed"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--labls", "x"], "--labels"),  # the nearest is named
        ([], "name a SOURCE"),
        (["--topk", "0"], "--topk"),
        (["--threshold", "2"], "--threshold"),
        (["--shortlist", "2", "--topk", "3"], "--topk 3 shows more labels than --shortlist 2"),
        (["--device", "gpu"], "--device"),
        (["gone.png"], "gone.png does not exist"),
        (["webcam"], "webcam does not exist: did you mean camera0?"),
        (["rtsp://host:99999/1"], "rtsp://host:99999/1: the port must be a number from 1 to 65535"),
        (["ftp://host/x"], "is no source that attri knows"),
        ([""], "a SOURCE is empty"),
        (["camera0", "--input-loop", "1"], "--input-loop: none of the sources takes it"),
        (["camera0", "--roi", "1,2,3"], "is not x,y,width,height"),
        (["camera0", "--roi", "0,0,0,9"], "is an empty region of interest"),
        (["camera0", "--input-flip", "left"], "--input-flip"),
        ([".", "--watch", "--max-retries", "3"], "--max-retries: none of the sources is a camera or stream"),
        (["camera0", "--watch"], "--watch: name a folder"),
        (["camera0", "--smooth", "1", "--majority", "3"], "give one of them"),
        ([__file__, "--majority", "3"], "--majority: none of the sources takes it"),
        ([__file__, "--smooth", "1", "--min-duration", "2"], "--smooth, --min-duration: none of the sources takes it"),
        (["camera0", "--template", "a photo"], "write exactly one"),
        (["camera0", "--template", ""], "write exactly one"),
        (["camera0", "--sources", "gone.toml"], "gone.toml cannot be read"),
    ],
    ids=str,
)
def test_wrong_usage(attri_run: Callable[..., Finished], args: list[str], words: str) -> None:
    result = attri_run(*args)
    assert (result.code, result.out) == (2, "")
    assert words in result.err.splitlines()[-1]


@pytest.mark.parametrize("text", [None, "", "# only a comment\n\n"], ids=["missing", "empty", "comment"])
def test_labels_that_are_none(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "none.txt"
    if text is not None:
        path.write_text(text)
    result = attri_run(image_files[0], labels=path)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: {path} ")


@pytest.mark.parametrize("kind", ["missing", "changed"])
def test_a_bundle_that_cannot_be_used(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "copy"
    if kind == "changed":
        shutil.copytree(bundle, path)
        data = bytearray((path / TEXT).read_bytes())
        data[-1] ^= 1
        (path / TEXT).write_bytes(data)
    result = attri_run(image_files[0], bundle=path)
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line


def test_a_too_long_label_is_named_by_its_line(
    attri_run: Callable[..., Finished], image_files: list[Path], labels: Path
) -> None:
    labels.write_text("bird\n# a comment\n" + "very " * 90 + "red apple\n")
    result = attri_run(image_files[0])
    assert result.code == 0
    assert f"{labels} line 3 has " in result.err


def test_labels_as_windows_saves_them(
    attri_run: Callable[..., Finished], image_files: list[Path], labels: Path
) -> None:
    labels.write_bytes("\r\n".join(LABELS).encode("utf-8-sig"))
    (found,) = attri_run(image_files[0], "--json", "--topk", 9).objects
    assert sorted(each["label"] for each in found["top"]) == sorted(LABELS)


def test_labels_from_a_pipe_are_read_once(attri_run: Callable[..., Finished], image_files: list[Path]) -> None:
    """As a shell gives them: --labels <(...)"""
    reading, writing = os.pipe()
    os.write(writing, b"red apple\nbird\nbird\n")
    os.close(writing)
    result = attri_run(image_files[0], "--json", "--topk", 9, labels=Path(f"/dev/fd/{reading}"))
    os.close(reading)
    assert result.code == 0, result.err
    assert {each["label"] for each in result.objects[0]["top"]} == {"red apple", "bird"}
    assert result.err.count("repeated labels") == 1


def test_cuda_is_not_replaced_in_silence(attri_run: Callable[..., Finished], image_files: list[Path]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    result = attri_run(image_files[0], "--device", "cuda")
    assert (result.code, result.out) == (1, "")
    assert "pip install 'attri[gpu]'" in result.err


def test_a_missing_extra_prints_the_line_that_mends_it(
    attri_run: Callable[..., Finished], image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    wanted = "error: onnxruntime is not installed: pip install 'attri[onnx]'\n"
    assert attri_run(image_files[0]) == (1, "", wanted)


@pytest.mark.parametrize("kind", ["png", "empty", "text"])
def test_standard_input_without_a_jpeg(
    attri_run: Callable[..., Finished], image_files: list[Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cat x.png | attri-run -` said "0 frames" and exit code 0."""
    data = {"png": image_files[0].read_bytes(), "empty": b"", "text": b"no image\n" * 1000}[kind]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, err = attri_run("-")
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: standard input had no JPEG in it: - takes JPEGs one after the other")
    assert (code, out) == (1, "")


def test_standard_input_that_is_a_terminal(attri_run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        wanted = "error: -: standard input is a terminal: pipe JPEGs into it, or name files\n"
        assert attri_run("-") == (2, "", wanted)
    os.close(ours)


def test_a_camera_that_is_not_there_is_told_and_ends(attri_run: Callable[..., Finished]) -> None:
    code, out, err = attri_run("rtsp://127.0.0.1:9/cam")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert "given up after 2 retries" in "\n".join(lines)
    assert lines[-1] == "--wait waits for cameras and streams that are not there yet"


def test_prompts_of_labels(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], labels: Path
) -> None:
    """A label stands for the prompt that fits best: the logits say so, and softmax goes over labels."""
    labels.write_text("fruit = red apple; green apple\nbird\nhome = a house; a hut; bird\n")
    (found,) = attri_run(image_files[0], "--json", "--topk", 9, "--template", "a photo of {}.").objects
    classifier = Classifier.load(bundle, threads=1)
    classifier.set_labels(["red apple", "green apple", "bird", "a house", "a hut"], template="a photo of {}.")
    red, green, bird, house, hut = classifier(image_files[0]).probabilities.astype(float)
    best = {"fruit": max(red, green), "bird": bird, "home": max(house, hut, bird)}
    wanted = {label: score / sum(best.values()) for label, score in best.items()}
    assert {each["label"]: each["score"] for each in found["top"]} == pytest.approx(wanted, abs=2e-6)  # rounded to 1e-6


def test_named_sources_with_labels_of_their_own(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path
) -> None:
    for name, words in (("one", "cat\ndog"), ("two", "red apple\nbird")):
        (tmp_path / f"{name}.txt").write_text(words)
        shutil.copy(image_files[0], tmp_path / f"{name}.png")
    file = tmp_path / "sources.toml"
    tables = [
        f'[{name}]\nuri = "{name}.png"\nlabels = "{name}.txt"\nthreshold = {t}' for name, t in (("one", 0), ("two", 1))
    ]
    file.write_text("\n".join(tables))
    one, two = attri_run("--sources", file, "--json", "--topk", 2).objects
    assert {each["label"] for each in one["top"]} == {"cat", "dog"}
    assert {each["label"] for each in two["top"]} == {"red apple", "bird"}
    assert (one["label"] in ("cat", "dog"), two["label"]) == (True, None)
    (alone,) = attri_run("two", "--sources", file, "--json").objects
    assert alone["source"] == two["source"]


@pytest.mark.parametrize("removed", [False, True])
def test_sources_and_labels_of_two_versions_are_not_mixed(
    attri_run: Callable[..., Finished], image_files: list[Path], tmp_path: Path, removed: bool
) -> None:
    """A link to the folder is turned to the next version after the sources file was read and before labels are."""
    for version, words in (("v1", "cat\ndog"), ("v2", "red apple\nbird")):
        (tmp_path / version).mkdir()
        for name in ("a", "b"):
            shutil.copy(image_files[0], tmp_path / version / f"{name}.png")
            (tmp_path / version / f"{name}{version}.txt").write_text(words)
        tables = [f'[{name}]\nuri = "{name}.png"\nlabels = "{name}{version}.txt"\n' for name in ("a", "b")]
        (tmp_path / version / "sources.toml").write_text("".join(tables))
    if not removed:  # the second version has the names of the first too
        for name in ("a", "b"):
            shutil.copy(tmp_path / "v2" / f"{name}v2.txt", tmp_path / "v2" / f"{name}v1.txt")
    now, first = tmp_path / "now", tmp_path / "v1" / "av1.txt"
    now.symlink_to("v1")
    first.unlink()
    os.mkfifo(first)  # reading it waits for us

    def turn() -> None:
        with first.open("w") as pipe:  # once it is read
            (tmp_path / "next").symlink_to("v2")
            (tmp_path / "next").replace(now)
            pipe.write("cat\ndog")

    thread = threading.Thread(target=turn)
    thread.start()
    found = attri_run("--sources", now / "sources.toml", "--json", "--topk", 2)
    thread.join()
    assert found.code == 0, found.err
    assert [{each["label"] for each in one["top"]} for one in found.objects] == [{"red apple", "bird"}] * 2


def test_a_region_is_what_is_classified(
    attri_run: Callable[..., Finished], bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    image = Image.open(image_files[0]).convert("RGB")
    wide = Image.new("RGB", (3 * image.width, image.height), "blue")
    wide.paste(image, (image.width, 0))
    wide.save(tmp_path / "wide.png")
    image.save(tmp_path / "plain.png")
    (plain,) = attri_run(tmp_path / "plain.png", "--json").objects
    roi = f"{image.width},0,{image.width},{image.height}"
    (found,) = attri_run(tmp_path / "wide.png", "--json", "--roi", roi).objects
    assert (found["score"], found["retrieved"]) == (plain["score"], plain["retrieved"])
    outside = attri_run(tmp_path / "plain.png", tmp_path / "wide.png", "--json", "--roi", roi)
    assert (outside.code, len(outside.objects)) == (1, 1)
    assert f"{tmp_path / 'plain.png'}: the region {roi} is not inside" in outside.err
