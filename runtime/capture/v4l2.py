"""V4L2 cameras of this machine, by number, by name, and by the links of udev that outlive a new number."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from attri.runtime.errors import SourceError

DEV, SYS = Path("/dev"), Path("/sys")
BY_NAME = "camera:"  # before the name of a camera
_LINKS = ("by-id", "by-path")  # folders of /dev/v4l: by maker, model and serial number; by the port it is plugged into


@dataclass(frozen=True)
class Camera:
    """A camera that is plugged in.

    Attributes:
        device: /dev/videoN.
        name: The card name that its driver tells (VIDIOC_QUERYCAP); "" where the kernel does not say.
        links: Links in /dev/v4l that lead to the device.
    """

    device: Path
    name: str
    links: tuple[Path, ...]

    def __str__(self) -> str:
        number = f"camera{_number(self.device)}"
        return f"{number} ({self.name})" if self.name else number


def list_cameras() -> list[Camera]:
    """The cameras that are plugged in, in the order of their numbers.

    A camera may have several nodes: for metadata, or for a second stream. This lists its first.
    """
    devices = sorted((path for path in DEV.glob("video*") if _number(path) is not None), key=_number)  # type: ignore[arg-type]  # never None
    links = _links()
    return [
        Camera(device, _attribute(device, "name"), tuple(link for link, target in links.items() if target == device))
        for device in devices
        if _attribute(device, "index") in ("", "0")
    ]


def is_device(path: str) -> bool:
    """Whether a path means a V4L2 device, plugged in or not."""
    if re.fullmatch(r"/dev/(video\d+|v4l/by-(id|path)/[^/]+)", path):
        return True
    if not Path(path).exists():
        return False
    target = Path(os.path.realpath(path))  # of a link that somebody's own udev rule made
    return target.parent == DEV and _number(target) is not None


def find_device(uri: str) -> Path:
    """The device that a source means now: numbers change when a camera is plugged in again.

    Args:
        uri: A path, or `camera:NAME`.

    Raises:
        SourceError: No camera has the name, or several have it.
    """
    if uri.startswith(BY_NAME):
        return _find_by_name(uri.removeprefix(BY_NAME))
    path = DEV / uri.removeprefix("/dev/")
    target = Path(os.path.realpath(path))
    return target if _number(target) is not None else path


def opencv_name(device: Path) -> int | str:
    """What OpenCV calls a device: its number, or the path of a node that a container has under another name."""
    number = _number(device)
    return str(device) if number is None or device.parent != DEV else number


def cameras_here() -> str:
    """Half a sentence for an error message."""
    return f"cameras here: {', '.join(map(str, list_cameras())) or 'none'}"


def _find_by_name(name: str) -> Path:
    found = [each for each in list_cameras() if each.name.casefold() == name.strip().casefold()]
    if not found:
        raise SourceError(f"there is no camera of that name; {cameras_here()}")
    if len(found) > 1:
        paths = ", ".join(str(each.links[-1] if each.links else each.device) for each in found)
        raise SourceError(f"{len(found)} cameras have that name: name one by its path: {paths}", final=True)
    return found[0].device


def _links() -> dict[Path, Path]:
    """Each link in /dev/v4l, and the device that it leads to."""
    links = [link for folder in _LINKS for link in sorted((DEV / "v4l" / folder).glob("*"))]
    return {link: Path(os.path.realpath(link)) for link in links}


def _attribute(device: Path, name: str) -> str:
    """What the kernel says of a device in sysfs; "" where it says nothing."""
    try:
        return (SYS / "class/video4linux" / device.name / name).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(device: Path) -> int | None:
    match = re.fullmatch(r"video(\d+)", device.name)
    return int(match[1]) if match else None
