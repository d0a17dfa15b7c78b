"""Frames from cameras by OpenCV: V4L2 devices, CSI cameras and other GStreamer pipelines."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.capture.v4l2 import cameras_here, find_device, opencv_name
from attri.runtime.errors import MissingExtra, SourceError

_FOURCC = {"mjpeg": "MJPG", "raw": "YUYV"}
# One buffer, dropped when a newer frame is there: what waits in GStreamer is lag that nobody sees.
_SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


@contextmanager
def open_camera(spec: SourceSpec) -> Iterator[Capture]:
    """Open a camera of this machine, or a GStreamer pipeline.

    Raises:
        SourceError: It is not there, in use, or gives no frames; final where OpenCV has no GStreamer.
        MissingExtra: OpenCV is not installed.
    """
    cv2 = _cv2()
    where = ""
    if spec.kind == "v4l2":
        path = find_device(spec.uri)
        where = "" if path.name == Path(spec.uri).name else f"{path}, "
        _probe(path, spec.uri)
        device = _v4l2(cv2, path, spec.input)
    else:
        device = _gstreamer(cv2, pipeline(spec))
    try:
        yield Capture(where + _description(cv2, device, spec), _frames(cv2, device))
    finally:
        device.release()


def pipeline(spec: SourceSpec) -> str:
    """The GStreamer pipeline of a CSI camera or a `gst:` source; one without an appsink gets ours."""
    if spec.kind == "gst":
        return spec.uri if "appsink" in spec.uri else f"{spec.uri} ! {_SINK}"
    asked = spec.input
    caps = ["video/x-raw(memory:NVMM)"]
    caps += [f"{name}=(int){value}" for name, value in (("width", asked.width), ("height", asked.height)) if value]
    caps += [f"framerate=(fraction){round(asked.rate * 1000)}/1000"] if asked.rate else []
    convert = "nvvidconv ! video/x-raw,format=BGRx"  # from the ISP's memory to the CPU's
    return f"nvarguscamerasrc sensor-id={spec.uri} ! {','.join(caps)} ! {convert} ! {_SINK}"


def _v4l2(cv2: Any, path: Path, asked: SourceOptions) -> Any:
    device = cv2.VideoCapture(opencv_name(path), cv2.CAP_V4L2)
    if not device.isOpened():
        raise SourceError(f"{path} is no camera that gives images")
    # The format before the size, since sizes depend on it; MJPEG, because USB carries large images only compressed.
    device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*_FOURCC[asked.codec or "mjpeg"]))
    for name, value in (("FRAME_WIDTH", asked.width), ("FRAME_HEIGHT", asked.height), ("FPS", asked.rate)):
        if value:
            device.set(getattr(cv2, f"CAP_PROP_{name}"), value)
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return device


def _probe(path: Path, uri: str) -> None:
    """OpenCV only says that it could not open a device; the system says why."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise SourceError(f"there is no {uri}; {cameras_here()}") from error
    except PermissionError as error:
        raise SourceError(f"{path} may not be opened: add this user to the group video", final=True) from error
    except OSError as error:
        busy = " (another program has it)" if error.errno == errno.EBUSY else ""
        raise SourceError(f"{path}: {error.strerror}{busy}") from error


def _gstreamer(cv2: Any, text: str) -> Any:
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        message = "this OpenCV has no GStreamer: use the system's (python3-opencv, on a Jetson JetPack's)"
        raise SourceError(message, final=True)
    device = cv2.VideoCapture(text, cv2.CAP_GSTREAMER)
    if not device.isOpened():
        raise SourceError(f"GStreamer cannot start the pipeline: {text}")
    return device


def _frames(cv2: Any, device: Any) -> Iterator[CapturedFrame]:
    while True:
        came, image = device.read()
        if not came or image is None or image.size == 0:
            raise SourceError("the camera gives no more frames")
        if image.ndim != 3 or image.shape[2] != 3:
            raise SourceError(
                f"the camera gives {list(image.shape)} in the place of images: try the other codec, raw or mjpeg"
            )
        yield CapturedFrame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), time.time())


def _description(cv2: Any, device: Any, spec: SourceSpec) -> str:
    names = ("FRAME_WIDTH", "FRAME_HEIGHT", "FPS")
    width, height, rate = (device.get(getattr(cv2, f"CAP_PROP_{name}")) for name in names)
    form = _fourcc(int(device.get(cv2.CAP_PROP_FOURCC))) if spec.kind == "v4l2" else "BGR"
    given = f"{width:g} x {height:g}, {rate:.4g} fps, {form} ({device.getBackendName()})"
    return given + _differs(spec.input, width, height, rate)


def _fourcc(code: int) -> str:
    return "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24))


def _differs(asked: SourceOptions, width: float, height: float, rate: float) -> str:
    wanted = {"width": (asked.width, width), "height": (asked.height, height), "rate": (asked.rate, rate)}
    other = [f"{name} {want:g}" for name, (want, got) in wanted.items() if want and abs(want - got) > 0.01 * want]
    return f"; not what was asked: {', '.join(other)}" if other else ""


def _cv2() -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it warns of pipelines that work
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtra("cv2") from error
    return cv2
