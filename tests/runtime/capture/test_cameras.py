"""Cameras by OpenCV: GStreamer for real, in the system's Python; V4L2 with a stand-in, as no device is here."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.streams import NEEDS_GSTREAMER, SYSTEM_PYTHON

import attri.runtime
from attri.runtime.capture import v4l2
from attri.runtime.capture.base import Capture
from attri.runtime.capture.open import open_source
from attri.runtime.capture.opencv import pipeline
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.errors import MissingExtra, SourceError

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the system's OpenCV made of the pipelines; of ours it sees the runtime alone."""
    root = tmp_path_factory.mktemp("root")
    (root / "attri").mkdir()
    (root / "attri" / "runtime").symlink_to(Path(attri.runtime.__file__).parent)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{root}:{TESTS}", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [SYSTEM_PYTHON, str(TESTS / "support" / "gstreamer_cameras.py")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"log": done.stderr}


@NEEDS_GSTREAMER
def test_a_csi_camera(played: dict) -> None:
    assert played["csi"]["description"] == "64 x 48, 15 fps, BGR (GSTREAMER)"
    assert (played["csi"]["frames"], played["csi"]["shape"]) == (20, [48, 64, 3])
    assert played["csi as it comes"]["frames"] == 20


@NEEDS_GSTREAMER
def test_any_pipeline(played: dict) -> None:
    """Its frames come as RGB, and when it ends, that is said."""
    assert played["gst"]["pixel"] == [255, 0, 0]
    assert 1 <= played["gst"]["frames"] <= 10  # one buffer: a frame that is not taken in time is gone
    assert played["gst"]["error"] == "the camera gives no more frames"
    assert played["gst with a sink"]["pixel"] == [0, 0, 255]


@NEEDS_GSTREAMER
def test_pipelines_that_fail(played: dict) -> None:
    assert 1 <= played["broken"]["frames"] <= 5
    assert played["broken"]["error"] == "the camera gives no more frames"


@NEEDS_GSTREAMER
def test_flips_are_gstreamers(played: dict) -> None:
    assert played["flips"] == []


@NEEDS_GSTREAMER
@pytest.mark.parametrize("kind", ["stall", "unknown"])
def test_a_pipeline_that_hangs_is_left_behind(played: dict, kind: str) -> None:
    """Twice, and then the source is dead; the process ends all the same, and with the right code."""
    assert played[kind]["good"] is False
    assert played[kind]["seconds"] < 10
    hint = "no answer for 1 s (is every element of the pipeline installed?)"
    assert f"{hint}; trying again in" in played["log"]
    assert f"{hint}, given up after 1 retry" in played["log"]
    assert "secret" not in played["log"]


def test_the_pipeline_of_a_csi_camera() -> None:
    """Its first elements are a Jetson's: word for word what NVIDIA documents for nvarguscamerasrc."""
    spec = SourceSpec("csi://1", "csi", "1", input=SourceOptions(width=1280, height=720, rate=29.97))
    assert pipeline(spec) == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM),width=(int)1280,height=(int)720,framerate=(fraction)29970/1000 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! "
        "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )


def test_an_opencv_without_gstreamer_is_named() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    if "GStreamer:                   YES" in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match="this OpenCV has no GStreamer: use the system's") as error:
        opened("csi://0")
    assert error.value.final


def opened(word: str, **options: Any) -> Capture:
    spec = find_source(word)
    spec = SourceSpec(spec.name, spec.kind, spec.uri, input=SourceOptions(**options))
    with open_source(spec, 3, threading.Event()) as capture:
        return capture


class Device:
    """A V4L2 camera as OpenCV shows it: 640 x 480 at 30 frames per second at most, blue, until it is unplugged. Nodes
    of odd numbers give metadata alone."""

    def __init__(self, number: Any, backend: int) -> None:
        self.number, self.backend, self.calls, self.left, self.released = number, backend, [], 3, False
        self.values = {"FRAME_WIDTH": 320.0, "FRAME_HEIGHT": 240.0, "FPS": 30.0, "FOURCC": 0.0}

    def isOpened(self) -> bool:
        return self.number % 2 == 0

    def set(self, name: str, value: float) -> bool:
        self.calls.append(name)
        most = {"FRAME_WIDTH": 640, "FRAME_HEIGHT": 480, "FPS": 30}
        self.values[name] = min(value, most.get(name, value))
        return True

    def get(self, name: str) -> float:
        return self.values[name]

    def getBackendName(self) -> str:
        return "V4L2"

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        blue = np.zeros((4, 6, 3), np.uint8)
        blue[..., 0] = 255
        return (True, blue) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.released = True


class Machine:
    """/dev and /sys as Linux and udev lay them out: each camera has a node for frames and one for metadata."""

    def __init__(self, root: Path) -> None:
        self.dev, self.sys = root / "dev", root / "sys"
        for folder in ("by-id", "by-path"):
            (self.dev / "v4l" / folder).mkdir(parents=True)

    def plug(self, number: int, name: str, serial: str = "", port: str = "") -> None:
        for index in (0, 1):
            node = f"video{number + index}"
            (self.dev / node).touch()
            facts = self.sys / "class/video4linux" / node
            facts.mkdir(parents=True)
            (facts / "name").write_text(f"{name}\n")
            (facts / "index").write_text(f"{index}\n")
            for folder, link in (("by-id", f"usb-{serial}"), ("by-path", f"pci-0000:00:14.0-usb-{port}")):
                if not link.endswith("-"):
                    (self.dev / "v4l" / folder / f"{link}-video-index{index}").symlink_to(f"../../{node}")

    def unplug(self, number: int) -> None:
        for node in (f"video{number}", f"video{number + 1}"):
            for link in (self.dev / "v4l").glob("*/*"):
                if link.readlink().name == node:
                    link.unlink()
            (self.dev / node).unlink()
            shutil.rmtree(self.sys / "class/video4linux" / node)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(v4l2, "DEV", made.dev)
    monkeypatch.setattr(v4l2, "SYS", made.sys)
    return made


@pytest.fixture
def devices(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """What OpenCV opened, on a machine with one camera."""
    machine.plug(0, "HD Pro Webcam C920", serial="046d_HD_Pro_Webcam_C920_1234", port="0:3:1.0")
    made: list[Device] = []

    def capture(number: int, backend: int) -> Device:
        made.append(Device(number, backend))
        return made[-1]

    def code(*letters: str) -> int:
        return sum(ord(letter) << (8 * i) for i, letter in enumerate(letters))

    names = {f"CAP_PROP_{name}": name for name in ("FRAME_WIDTH", "FRAME_HEIGHT", "FPS", "FOURCC", "BUFFERSIZE")}
    tools = {"VideoCapture": capture, "VideoWriter_fourcc": code, "CAP_V4L2": 200, "COLOR_BGR2RGB": 4}
    fake = SimpleNamespace(**names, **tools, cvtColor=lambda image, _: image[:, :, ::-1].copy())
    monkeypatch.setitem(sys.modules, "cv2", fake)
    return made


def test_a_v4l2_camera(devices: list[Device]) -> None:
    spec = SourceSpec("camera0", "v4l2", "/dev/video0", input=SourceOptions(width=1280, height=480, rate=15))
    with open_source(spec, 3, threading.Event()) as capture:
        frames = list(islice(capture.frames, 3))
        with pytest.raises(SourceError, match="the camera gives no more frames"):
            next(capture.frames)
    (device,) = devices
    assert len(frames) == 3
    assert np.asarray(frames[0].image)[0, 0].tolist() == [0, 0, 255]
    assert (device.number, device.backend) == (0, 200)
    # The format first, since sizes depend on it.
    assert device.calls == ["FOURCC", "FRAME_WIDTH", "FRAME_HEIGHT", "FPS", "BUFFERSIZE"]
    assert capture.description == "640 x 480, 15 fps, MJPG (V4L2); not what was asked: width 1280"
    assert device.released


@pytest.mark.parametrize(("codec", "form"), [(None, "MJPG"), ("mjpeg", "MJPG"), ("raw", "YUYV")])
def test_pixel_formats(devices: list[Device], codec: str | None, form: str) -> None:
    assert opened("camera0", codec=codec).description == f"320 x 240, 30 fps, {form} (V4L2)"


def test_a_device_that_is_no_camera(devices: list[Device]) -> None:
    with pytest.raises(SourceError, match="/dev/video1 is no camera that gives images"):
        opened("camera1")


BY_ID = "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920_1234-video-index0"
BY_PATH = "/dev/v4l/by-path/pci-0000:00:14.0-usb-0:3:1.0-video-index0"
IDENTITIES = [BY_ID, BY_PATH, f"v4l2://{BY_ID}", "camera:HD Pro Webcam C920", "camera:hd pro webcam c920"]


@pytest.mark.parametrize("word", IDENTITIES)
def test_a_camera_is_found_again_under_another_number(devices: list[Device], machine: Machine, word: str) -> None:
    spec = find_source(word)
    assert (spec.name, spec.kind, spec.live) == (word, "v4l2", True)
    with open_source(spec, 3, threading.Event()) as capture:
        assert capture.description.startswith(f"{machine.dev}/video0, 320 x 240")
    machine.unplug(0)
    with pytest.raises(SourceError, match=r"there is no .*; cameras here: none") as error:
        opened(word)
    assert not error.value.final  # it may be plugged in again
    machine.plug(0, "Other Camera")
    machine.plug(4, "HD Pro Webcam C920", serial="046d_HD_Pro_Webcam_C920_1234", port="0:3:1.0")
    with open_source(spec, 3, threading.Event()) as capture:
        assert capture.description.startswith(f"{machine.dev}/video4, 320 x 240")
    assert [device.number for device in devices] == [0, 4]


@pytest.mark.parametrize("word", ["camera97", BY_ID, "camera:C920"])
def test_no_such_camera(machine: Machine, word: str) -> None:
    """What is there instead is said, but for the nodes that give metadata alone."""
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    machine.plug(10, "HD Pro Webcam C920")
    machine.plug(2, "Integrated Camera")
    listed = r"cameras here: camera2 \(Integrated Camera\), camera10 \(HD Pro Webcam C920\)$"
    with pytest.raises(SourceError, match=listed) as error:
        opened(word)
    assert not error.value.final


def test_two_cameras_of_one_name(devices: list[Device], machine: Machine) -> None:
    """Neither is taken: the message gives the paths that tell them apart."""
    machine.plug(2, "HD Pro Webcam C920", port="0:4:1.0")
    with pytest.raises(SourceError, match="2 cameras have that name") as error:
        opened("camera:HD Pro Webcam C920")
    assert error.value.final
    for port in ("0:3:1.0", "0:4:1.0"):
        assert f"by-path/pci-0000:00:14.0-usb-{port}-video-index0" in str(error.value)
    assert not devices


def test_a_link_of_ones_own(devices: list[Device], machine: Machine, tmp_path: Path) -> None:
    """As udev's SYMLINK+= makes them."""
    (machine.dev / "front").symlink_to("video0")
    assert find_source(str(machine.dev / "front")).kind == "v4l2"
    assert opened(str(machine.dev / "front")).description.startswith(f"{machine.dev}/video0, ")


def test_a_node_in_the_place_of_a_link(
    devices: list[Device], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker --device /dev/v4l/by-id/... makes the node itself under that name: OpenCV gets the path."""
    monkeypatch.setattr(Device, "isOpened", lambda self: True)
    node = machine.dev / "v4l/by-id/usb-9-video-index0"
    node.touch()
    opened("/dev/v4l/by-id/usb-9-video-index0")
    assert devices[0].number == str(node)


def test_a_kernel_that_says_nothing_of_cameras(machine: Machine) -> None:
    """As in a container without /sys."""
    (machine.dev / "video3").touch()
    (machine.dev / "video-front").touch()
    assert [str(camera) for camera in v4l2.list_cameras()] == ["camera3"]


@pytest.mark.parametrize(
    ("code", "words", "final"),
    [(errno.EACCES, "add this user to the group video", True), (errno.EBUSY, "another program has it", False)],
)
def test_why_a_device_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, code: int, words: str, final: bool) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr("attri.runtime.capture.opencv.os.open", refuse)
    with pytest.raises(SourceError, match=words) as error:
        opened("camera0")
    assert error.value.final is final


@pytest.mark.parametrize(("word", "module"), [("camera0", "cv2"), ("csi://0", "cv2"), ("rtsp://127.0.0.1/x", "av")])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, word: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'attri\[camera\]'"):
        opened(word)


def test_a_device_that_gives_no_images(devices: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "read", lambda self: (True, np.zeros((4, 6, 2), np.uint8)))
    with (
        open_source(find_source("camera0"), 3, threading.Event()) as capture,
        pytest.raises(SourceError, match=r"gives \[4, 6, 2\] in the place of images: try the other codec"),
    ):
        next(capture.frames)
