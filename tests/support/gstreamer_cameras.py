"""Run by the system's Python, whose OpenCV has GStreamer: plays pipelines with a test source in the camera's place, and
prints what came of each as JSON."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
from support.fakes import FakeClassifier, FakeSink

from attri.runtime.capture import opencv, reader
from attri.runtime.capture.open import open_source
from attri.runtime.capture.orientation import FLIPS, Flip, flipped
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.errors import SourceError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup

_TEST = "videotestsrc is-live=true pattern={} num-buffers={} ! video/x-raw,width=64,height=48,framerate=30/1"


def play(spec: SourceSpec, most: int = 1000) -> dict[str, Any]:
    found: dict[str, Any] = {"frames": 0}
    try:
        with open_source(spec, 3, threading.Event()) as capture:
            found["description"] = capture.description
            for _, shot in zip(range(most), capture.frames, strict=False):
                found["frames"] += 1
                image = np.asarray(shot.image)
                found["pixel"], found["shape"] = image[0, 0].tolist(), image.shape
    except SourceError as error:
        found["error"] = str(error)
    return found


def csi(**options: Any) -> dict[str, Any]:
    """The CSI pipeline as it is, but for the elements that only a Jetson has."""
    real = opencv.pipeline
    here = {
        "nvarguscamerasrc sensor-id=1": "videotestsrc is-live=true",
        "(memory:NVMM)": "",
        "nvvidconv": "videoconvert",
    }

    def pipeline(spec: SourceSpec) -> str:
        text = real(spec)
        for theirs, ours in here.items():
            assert theirs in text
            text = text.replace(theirs, ours)
        return text

    opencv.pipeline = pipeline
    try:
        return play(replace(find_source("csi://1"), input=SourceOptions(**options)), 20)
    finally:
        opencv.pipeline = real


def flips() -> list[Flip]:
    """The flips that differ from GStreamer's own."""
    names = ("identity", "90l", "180", "90r", "horiz", "vert", "ur-ll", "ul-lr")  # of videoflip, in the order of FLIPS
    # Colour bars with a border on two sides: an image with no symmetry.
    source = f"{_TEST.format('smpte100', 1)} ! videobox top=-16 left=-8 ! videoconvert ! video/x-raw,format=BGR"

    def one(text: str) -> Any:
        with open_source(find_source(f"gst:{text}"), 3, threading.Event()) as capture:
            return next(capture.frames).image

    plain = one(source)
    wrong = []
    for flip, name in zip(FLIPS, names, strict=True):
        theirs = one(f"{source} ! videoflip video-direction={name}")
        ours = flipped(plain, flip)
        if ours.shape != theirs.shape or (ours != theirs).any():
            wrong.append(flip)
    return wrong


def stall(text: str) -> dict[str, Any]:
    """A pipeline for which OpenCV waits for ever, in a whole process that is to end all the same."""
    reader.OPENING_TIMEOUT = 1.0
    spec = find_source(f"gst:{text}")
    patience = RetryPolicy(max_retries=1, initial_delay=0.1, max_delay=0.1)
    labels = LiveLabels(FakeClassifier(), None)
    start = time.monotonic()
    good = Pipeline([spec], [[TaskSetup(labels)]], Schedule(), patience).run([FakeSink()])
    return {"good": good, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = {
        "csi": csi(width=64, height=48, rate=15),
        "csi as it comes": csi(),
        "gst": play(find_source(f"gst:{_TEST.format('red', 10)}")),
        "gst with a sink": play(
            find_source(f"gst:{_TEST.format('blue', 3)} ! videoconvert ! video/x-raw,format=BGR ! appsink")
        ),
        "broken": play(find_source(f"gst:{_TEST.format('green', 100)} ! identity error-after=5")),
        "flips": flips(),
        "stall": stall("videotestsrc is-live=true ! valve drop=true"),
        "unknown": stall("nosuchelement location=rtsp://u:secret@host"),
    }
    json.dump(result, sys.stdout)
