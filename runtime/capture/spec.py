"""What a source is: its kind, where it is found, and the options that say how it is read.

The fields of `SourceOptions` are the one table of source options: the options of attri-run, the checks of the sources
file and the kinds of sources that take an option are all made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from attri.runtime.capture.orientation import FLIPS, Flip
from attri.runtime.decide.task_spec import TaskSpec

_SUFFIXES = "mp4 m4v mov mkv webm avi mpg mpeg ts wmv flv ogv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
STREAMS = ("rtsp", "rtsps", "http", "https")  # schemes of network streams
Codec = Literal["mjpeg", "raw"]
CODECS: tuple[Codec, ...] = get_args(Codec)
SourceKind = Literal["v4l2", "csi", "gst", "stream", "video", "images", "watch", "stdin", "frigate"]
KINDS: dict[SourceKind, str] = {
    "v4l2": "a V4L2 camera",
    "csi": "a CSI camera",
    "gst": "a GStreamer pipeline",
    "stream": "an RTSP or HTTP stream",
    "video": "a video file",
    "images": "image files",
    "watch": "a watched folder",
    "stdin": "JPEGs on standard input",
    "frigate": "objects that Frigate detects",
}
LIVE = {"v4l2", "csi", "gst", "stream"}
_RETRIED = {*LIVE, "frigate"}
_CAMERAS = {"v4l2", "csi"}
_SEQUENCES = {"v4l2", "csi", "gst", "stream", "video", "stdin"}  # one frame has to do with the next
_IMAGE_FILES = {"images", "watch"}


class ValueType(Protocol):
    """The type of an option's value."""

    def accepts(self, value: object) -> bool:
        """Whether a value of the sources file is of this type; a list stands for a tuple."""
        ...


@dataclass(frozen=True)
class WholeNumber:
    """An int from `least` to `most`, where there is a greatest one."""

    least: int
    most: int | None = None

    def accepts(self, value: object) -> bool:
        """Whether a value is one of these."""
        return type(value) is int and self.least <= value and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Number:
    """An int or float from `least` to `most`; not NaN."""

    least: float
    most: float

    def accepts(self, value: object) -> bool:
        """Whether a value is one of these."""
        return type(value) in (int, float) and self.least <= value <= self.most  # type: ignore[operator]  # int or float


@dataclass(frozen=True)
class Choice:
    """One of these words."""

    values: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Whether a value is one of these."""
        return value in self.values


@dataclass(frozen=True)
class RegionOfInterest:
    """x, y, width and height in pixels, the last two not 0."""

    def accepts(self, value: object) -> bool:
        """Whether a value is one of these."""
        numbers = value if isinstance(value, (list, tuple)) and len(value) == 4 else (None,)
        return all(WholeNumber(0, 1 << 24).accepts(each) for each in numbers) and 0 not in numbers[2:]


@dataclass(frozen=True)
class SourceOption:
    """One row of the table of source options.

    Attributes:
        name: The field of SourceOptions, and the key in the sources file.
        flag: The option of attri-run.
        type: Of its value.
        kinds: The kinds of sources that take it, keys of KINDS.
        help: One line for `attri-run --help`.
        aliases: Other spellings of the flag.
        metavar: What stands for the value in `attri-run --help`; None leaves it to click.
    """

    name: str
    flag: str
    type: ValueType
    kinds: frozenset[str]
    help: str
    aliases: tuple[str, ...] = ()
    metavar: str | None = None


def _option(flag: str, type: ValueType, kinds: set[str], help: str, *aliases: str, metavar: str | None = None) -> Any:
    row = {"flag": flag, "type": type, "kinds": frozenset(kinds), "help": help, "aliases": aliases, "metavar": metavar}
    return field(default=None, metadata=row)


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read; a field is None where nobody asked. Names as in jetson-utils, `stride` as in ultralytics.

    Attributes:
        width: Of a camera's frames, pixels.
        height: Likewise.
        rate: Of a camera, frames per second.
        codec: Pixel format of a V4L2 camera, one of CODECS.
        flip: How frames are turned or mirrored, a key of FLIPS.
        latency: Milliseconds that packets of an RTSP stream over UDP are waited for; None is RTSP over TCP.
        loop: Times that files are played again; -1 for ever.
        megapixels: Millions of pixels of the largest image file that is decoded.
        stride: Of so many frames, one is classified.
        roi: x, y, width and height of the region of interest, pixels.
        retrieval_hysteresis: Cosine by which a new pool entry must be ahead of the previous frame's.
        motion: Change of grey, percent, from which on a frame is classified again.
        motion_max_age: Seconds after which it is in any case.
    """

    width: int | None = _option("--input-width", WholeNumber(1, 65535), _CAMERAS, "Width of a camera's frames, pixels.")
    height: int | None = _option(
        "--input-height", WholeNumber(1, 65535), _CAMERAS, "Height of a camera's frames, pixels."
    )
    rate: float | None = _option(
        "--input-rate", Number(0.001, 1000), _CAMERAS, "Frames per second of a camera.", "--input-framerate"
    )
    codec: Codec | None = _option(  # noqa: RUF009 (a field, like the others)
        "--input-codec", Choice(CODECS), {"v4l2"}, "Pixel format of a V4L2 camera. [mjpeg]"
    )
    flip: Flip | None = _option(  # noqa: RUF009
        "--input-flip", Choice(tuple(FLIPS)), _SEQUENCES, "Turn or mirror frames."
    )
    latency: int | None = _option(
        "--input-latency",
        WholeNumber(0, 600_000),
        {"stream"},
        "Read RTSP over UDP, and wait this long for late packets. [RTSP over TCP]",
        "--input-rtsp-latency",
        metavar="MS",
    )
    loop: int | None = _option(
        "--input-loop", WholeNumber(-1), {"video", "images"}, "Times to play files again; -1 for ever."
    )
    megapixels: float | None = _option(
        "--input-megapixels",
        Number(0.001, 1e6),
        {"images", "watch", "stdin"},
        "Largest image file to decode, millions of pixels. [268]",
        metavar="N",
    )
    stride: int | None = _option(
        "--stride", WholeNumber(1), _SEQUENCES | {"images"}, "Classify every Nth frame.", "--vid-stride"
    )
    roi: tuple[int, int, int, int] | None = _option(
        "--roi", RegionOfInterest(), _SEQUENCES | _IMAGE_FILES, "Region of interest, pixels; with names, several."
    )
    retrieval_hysteresis: float | None = _option(
        "--retrieval-hysteresis",
        Number(0, 2),
        _SEQUENCES,
        "Keep a video's pool entries until others are ahead by this cosine, for more hits of the text cache.",
        metavar="MARGIN",
    )

    motion: float | None = _option(
        "--motion",
        Number(0.01, 100),
        _SEQUENCES,
        "Classify a frame only if the grey of some part of it has changed by this many percent; 3 is a start.",
    )
    motion_max_age: float | None = _option(
        "--motion-max-age",
        Number(0.1, 86_400),
        _SEQUENCES,
        "With --motion, classify again after so long, whether anything changed or not. [5]",
        metavar="SECONDS",
    )

    def given(self) -> set[str]:
        """Names of the options that were asked for."""
        return {each.name for each in fields(self) if getattr(self, each.name) is not None}


SOURCE_OPTIONS = tuple(SourceOption(name=each.name, **each.metadata) for each in fields(SourceOptions))


@dataclass(frozen=True)
class RegionSpec:
    """A named part of a source's frames, which is classified and shown as a source of its own, SOURCE/REGION.

    Attributes:
        name: As a task can be called.
        roi: x, y, width and height, pixels.
        task: What is asked there; TaskSpec() asks what is asked of the source.
        motion: As of SourceOptions; None is that of the source.
    """

    name: str
    roi: tuple[int, int, int, int]
    task: TaskSpec = TaskSpec()  # noqa: RUF009  # frozen
    motion: float | None = None


@dataclass(frozen=True)
class SourceSpec:
    """One source: what it is called, and how to reach it.

    Attributes:
        name: As shown: the name in the sources file, or what was typed, without credentials.
        kind: A key of KINDS.
        uri: For what opens it: a device or its link, camera:NAME, a URI, a GStreamer pipeline, or a path.
        files: Of the kind "images", in order.
        input: How it is read.
        labels: Its own labels file; None is that of all sources.
        template: Its own template; None is that of all sources.
        threshold: Its own threshold; None is that of all sources.
        independent: Whether its labels are scored by themselves; None is as those of all sources are.
        tasks: What is asked of it; none is one task without a name. Labels, template and threshold of the source are
            those of tasks that have none.
        regions: Parts of its frames; none is one without a name: all of a frame, or `input.roi`.
        paused: Whether it is not opened until somebody says so.
    """

    name: str
    kind: SourceKind
    uri: str = field(repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)
    input: SourceOptions = SourceOptions()
    labels: Path | None = None
    template: str | None = None
    threshold: float | None = None
    independent: bool | None = None
    tasks: tuple[TaskSpec, ...] = ()
    regions: tuple[RegionSpec, ...] = ()
    paused: bool = False

    @property
    def rois(self) -> list[tuple[int, int, int, int] | None]:
        """What is cut out of its frames: one part for each region."""
        return [region.roi for region in self.regions] or [self.input.roi]

    @property
    def part_names(self) -> list[str]:
        """What each of these parts is called."""
        return [f"{self.name}/{region.name}" for region in self.regions] or [self.name]

    @property
    def motions(self) -> list[float | None]:
        """The change from which on each of these parts is classified again; None always is."""
        own = self.input.motion
        return [own if region.motion is None else region.motion for region in self.regions] or [own]

    @property
    def asked(self) -> list[tuple[TaskSpec, ...]]:
        """The tasks of each of these parts, one or more."""
        common = self.tasks or (TaskSpec(),)
        return [common if region.task == TaskSpec() else (region.task,) for region in self.regions] or [common]

    @property
    def live(self) -> bool:
        """Whether frames come by themselves, so that the latest frame is wanted and a fault may pass."""
        return self.kind in LIVE

    @property
    def retried(self) -> bool:
        """Whether it is opened again after a fault: it is live, or waits for what others send."""
        return self.kind in _RETRIED

    @property
    def sequential(self) -> bool:
        """Whether one frame has to do with the next, so that decisions over time make sense."""
        return self.kind not in ("images", "frigate")

    @property
    def options(self) -> set[str]:
        """Names of the options that it takes."""
        taken = {option.name for option in SOURCE_OPTIONS if self.kind in option.kinds}
        no_udp = self.kind == "stream" and not self.uri.startswith("rtsp://")
        return taken - {"latency"} if no_udp else taken
