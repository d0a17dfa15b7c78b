"""A release in the shadow of what runs, on a real bundle and on the frames of an attri-run that follows the store."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.fleet import make_repository, pull_to, push_files, take_over
from support.manifests import edit_manifest
from support.prompts import changed, noise
from support.results import FakeControl, make_result

from attri.fleet.device.bounded import Bounds
from attri.fleet.device.check import Check
from attri.fleet.device.shadow import Shadow, collect, compare, main
from attri.fleet.device.store import Store, live_folder, open_store
from attri.fleet.device.update import activate, verify
from attri.runtime.bundle import PROMPT, Bundle, file_entry
from attri.runtime.deliver.updates import sink as updates
from attri.runtime.deliver.updates.exchange import Exchange, TaskSettings
from attri.runtime.errors import FailedError, RefusedError, UsageError
from attri.runtime.prompt import Prompt
from attri.runtime.tokenizer import Tokenizer

LABELS = ["cat", "dog"]
EMBEDDING = "token_embedding.npy"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check("onnxruntime", "cpu", 1)


@pytest.fixture
def frames(image_files: list[Path], tmp_path: Path) -> Path:
    return saved(image_files[:12], TaskSettings(labels="\n".join(LABELS)), folder=tmp_path / "frames")


def saved(images: list[Path], *tasks: TaskSettings, folder: Path) -> Path:
    """Frames as attri-run saves them, of a source with these tasks."""
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(images):
        frame = folder / f"{number:05}.jpg"
        shutil.copy(file, frame)
        Exchange(folder).tell_settings(frame, tasks)
    return folder


@pytest.fixture
def swapped(bundle: Path, tmp_path: Path) -> Path:
    """A whole bundle, right in all that can be checked without images, in which cat and dog mean each other."""
    other = shutil.copytree(bundle, tmp_path / "swapped")
    table = np.load(other / EMBEDDING)
    rows = [Tokenizer().encode(label) for label in LABELS]
    assert [len(each) for each in rows] == [1, 1]
    table[rows[0] + rows[1]] = table[rows[1] + rows[0]]
    (other / EMBEDDING).unlink()
    np.save(other / EMBEDDING, table)
    edit_manifest(other, lambda raw: raw["files"].update({EMBEDDING: file_entry(other / EMBEDDING)}))
    return other


def test_a_release_that_says_the_same_is_taken(bundle: Path, check: Check, frames: Path, tmp_path: Path) -> None:
    found = compare(bundle, bundle, check, Shadow(12), frames, tmp_path / "kept")
    assert found == {"frames": 12, "agreement": 1.0, "score_drift": 0.0, "rejected": 0.0, "rejected_before": 0.0}
    assert list((tmp_path / "kept").iterdir()) == []


def test_swapped_labels_are_refused_and_the_images_kept(
    bundle: Path, swapped: Path, check: Check, frames: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(RefusedError, match=r"0 of 12 live frames .* \(0%\), the bound is 90%; scores differ by"):
        compare(swapped, bundle, check, Shadow(12), frames, kept)
    names = sorted(file.name for file in kept.iterdir())
    assert len(names) == 12
    assert {tuple(name.split("_")[1:]) for name in names} <= {("cat", "dog.jpg"), ("dog", "cat.jpg")}
    found = compare(swapped, bundle, check, Shadow(12, min_agreement=0.0), frames, kept)
    assert found["agreement"] == 0


@pytest.mark.filterwarnings("ignore:.*encountered")  # by NumPy, an error in tests alone
def test_scores_that_are_no_numbers_are_refused(
    bundle: Path, check: Check, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    prompt = Prompt.read(bundle / PROMPT)
    Prompt.of(dataclasses.replace(prompt.facts, temperature=1e-320), prompt.tensors).save(other / PROMPT)
    asked, shadow = json.dumps(check.to_dict()), json.dumps(Shadow(12).to_dict())
    main(str(other), str(bundle), asked, shadow, str(frames), str(tmp_path / "kept"))
    found = json.loads(capsys.readouterr().out)
    assert found["stage"] == "refused"
    assert "no finite number" in found["reason"]


class Device:
    """A store that runs the bundle, with a release to check and an attri-run whose camera shows real images."""

    def __init__(self, folder: Path, bundle: Path, candidate: Path, images: list[Path]) -> None:
        self.store, self.images = folder / "store", images
        repository = make_repository(folder / "repo")
        for each in (bundle, candidate):
            push_files(repository, {file.name: file.read_bytes() for file in each.iterdir() if file.is_file()})
            pull_to(self.store, repository.folder)
            if each is bundle:
                take_over(self.store)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        control = FakeControl()
        control.set_labels("\n".join(LABELS))
        sink = updates.UpdatesSink(live_folder(self.store), control.settings)
        while not self.ended.wait(0.01):
            for image in self.images:
                sink.write(make_result(image=image))
        sink.close()


@pytest.fixture
def device(
    tmp_path: Path, bundle: Path, swapped: Path, image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Device]:
    monkeypatch.setattr(updates, "POLL", 0.01)
    monkeypatch.setattr(updates, "SPACING", 0.0)
    device = Device(tmp_path, bundle, swapped, image_files[:4])
    yield device
    device.ended.set()
    if device.thread.ident:
        device.thread.join()


BOUNDS = Bounds(1 << 40, 600.0)


def test_a_signed_release_with_swapped_labels_is_refused_before_it_runs(device: Device, check: Check) -> None:
    device.thread.start()
    runs = (device.store / "current").resolve()
    with open_store(device.store) as store, pytest.raises(RefusedError, match="0 of 8 live frames"):
        verify(store, check, BOUNDS, Shadow(8))
    assert (device.store / "current").resolve() == runs
    assert not (device.store / "live" / "frames").exists()  # frames of cameras are not left lying about
    assert len(list((device.store / "disagreements").iterdir())) == 8
    update = Store(device.store).state.update
    assert update is not None
    assert update.stage == "refused"


def test_without_frames_the_release_waits_and_the_next_check_goes_on(device: Device, check: Check) -> None:
    shadow = Shadow(2, seconds=0.1, min_agreement=0.0)
    with (
        open_store(device.store) as store,
        pytest.raises(FailedError, match=r"0 of 2 live frames came within 0\.1"),
    ):
        verify(store, check, BOUNDS, shadow)
    with open_store(device.store) as store:
        assert store.state.candidate is not None
        assert store.state.candidate.stage == "built"
        assert not (device.store / "live" / "wanted.json").exists()
        device.thread.start()
        update = verify(store, check, BOUNDS, dataclasses.replace(shadow, seconds=600.0))
        assert update.figures["shadow"]["frames"] == 2
        activate(store)


def test_frames_that_a_killed_check_has_left_are_removed(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        with pytest.raises(FailedError):
            collect(store.live, Shadow(1, seconds=0.0))
        (store.live.frames / "00000.jpg").touch()
    with open_store(tmp_path / "store") as store:
        assert not store.live.frames.exists()
        assert store.live.wanted() is None


def test_a_prompt_of_noise_agrees_on_little(
    bundle: Path, check: Check, frames: Path, image_files: list[Path], tmp_path: Path
) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    noise(Prompt.read(bundle / PROMPT)).save(other / PROMPT)
    with Bundle.open(other):
        pass
    saved(image_files[:12], TaskSettings(), folder=frames)
    with pytest.raises(RefusedError, match="live frames get the label"):
        compare(other, bundle, check, Shadow(12), frames, tmp_path / "kept")


def test_each_task_of_a_source_has_to_agree(
    bundle: Path, check: Check, image_files: list[Path], tmp_path: Path
) -> None:
    """No release touches a prompt of its own; one of the bundle with other labels, sentence or threshold it does."""
    other, own = shutil.copytree(bundle, tmp_path / "other"), tmp_path / "own.attri"
    prompt = Prompt.read(bundle / PROMPT)
    changed(prompt, ["tree", "car"], 1, 9).save(own)
    noise(prompt).save(other / PROMPT)
    defects = TaskSettings("defects", prompt=str(own))
    colours = TaskSettings("colours", labels="red\ngreen\nblue\ngrey\nblack", template="it is {}")
    frames = saved(image_files[:12], defects, folder=tmp_path / "frames")
    found = compare(other, bundle, check, Shadow(12), frames, tmp_path / "kept")
    assert found["agreement"] == 1.0
    assert found["score_drift"] == 0.0
    saved(image_files[:6], defects, colours, folder=frames)  # the others are of a source with one task
    with pytest.raises(RefusedError, match="of 6 live frames of task colours get the label"):
        compare(other, bundle, check, Shadow(12, min_agreement=100.0), frames, tmp_path / "kept")
    kept = sorted((tmp_path / "kept").iterdir())
    assert kept
    assert all("_colours_" in file.name for file in kept)
    found = compare(other, bundle, check, Shadow(12, min_agreement=0.0), frames, tmp_path / "kept")
    assert found["tasks"] == {"defects": 1.0, "colours": found["agreement"]}
    assert found["agreement"] < 1
    never = [dataclasses.replace(colours, threshold=1.0)]
    found = compare(other, bundle, check, Shadow(12), saved(image_files[:12], *never, folder=frames), tmp_path / "kept")
    assert (found["agreement"], found["rejected"], found["rejected_before"]) == (1.0, 1.0, 1.0)


def test_a_prompt_of_a_task_that_is_gone_is_no_fault_of_the_release(
    bundle: Path, check: Check, image_files: list[Path], tmp_path: Path
) -> None:
    frames = saved(image_files[:1], TaskSettings("defects", prompt="/nowhere.attri"), folder=tmp_path / "frames")
    with pytest.raises(UsageError, match=r"what runs cannot be compared with: .*nowhere"):
        compare(bundle, bundle, check, Shadow(1), frames, tmp_path / "kept")
