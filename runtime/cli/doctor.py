"""attri-doctor: what this machine has, what attri would use, and what to do about what is missing."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime._util.cpus import usable_cpus
from attri.runtime._util.extras import MODULES
from attri.runtime._util.printable import as_text, json_text
from attri.runtime._util.system import memory, read_text
from attri.runtime._util.wording import first_line, plural
from attri.runtime.capture import v4l2
from attri.runtime.cli.command import Command

if TYPE_CHECKING:
    from attri.runtime.bundle import Bundle

OK, MISSING, NOTE = "ok", "missing", "note"
_MARKS = {OK: "ok", MISSING: "--", NOTE: "!"}
_LITTLE_DISK, _LITTLE_MEMORY = 2e9, 1e9  # bytes
_OPTIONAL = ("av", "pillow_heif", "paho", "prometheus_client", "starlette", "uvicorn")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        group: name of the check that found it, a heading of the report.
        name: what was looked at.
        state: "ok", "missing" or "note".
        value: what was found.
        advice: what to do about it, if anything.
    """

    group: str
    name: str
    state: str
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Choice:
    """The backend and device that `attri-run` would use.

    Attributes:
        backend: "tensorrt" or "onnxruntime"; None where nothing runs graphs.
        device: "cuda" or "cpu"; None likewise.
        why: the reason, for a person.
    """

    backend: str | None
    device: str | None
    why: str


@click.command(cls=Command)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    default=Path("bundle"),
    show_default=True,
    help="Bundle to verify.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.version_option(package_name="attri")
def main(bundle: Path, as_json: bool) -> int:
    """Check this machine for attri-run, and say what is missing.

    The exit code is 0 if attri-run can work here, and 1 if it cannot or the bundle is damaged. A missing bundle is not
    an error.
    """
    findings = [finding for check in CHECKS.values() for finding in check(bundle)]
    choice = choose(findings)
    if as_json:
        head = {"attri": version("attri"), "python": platform.python_version(), "would_use": asdict(choice)}
        click.echo(json_text(head | {"findings": [asdict(each) for each in findings]}))
    else:
        click.echo(as_text(report(findings, choice)))
    damaged = bundle.exists() and any(each.name == str(bundle) and each.state != OK for each in findings)
    return 0 if choice.backend and not damaged else 1


def choose(findings: list[Finding]) -> Choice:
    """Choose as --backend auto and --device auto do."""
    from attri.runtime.engines.onnxruntime import auto_device
    from attri.runtime.engines.select import EngineOptions, choose_tensorrt

    gpu, why = choose_tensorrt(EngineOptions())
    if gpu is not None:
        return Choice("tensorrt", "cuda", f"{gpu.machine}")
    state = {each.name: each.state for each in findings}
    if state["ONNX Runtime"] != OK:
        return Choice(None, None, f"{why}, and there is no ONNX Runtime: nothing runs graphs")
    device = auto_device()
    if device == "cuda" and state["CUDA"] != OK:
        return Choice("onnxruntime", "cpu", f"{why}, and CUDA does not start")
    return Choice("onnxruntime", device, why)


def report(findings: list[Finding], choice: Choice) -> str:
    """Format the findings as text, a section per group."""
    lines = [f"attri {version('attri')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    width = max(len(each.name) for each in findings)
    for group in dict.fromkeys(each.group for each in findings):
        lines += ["", group]
        for each in (each for each in findings if each.group == group):
            lines.append(f"  {_MARKS[each.state]:2}  {each.name:{width}}  {each.value}")
            if each.advice:
                lines.append(f"      {'':{width}}  -> {each.advice}")
    used = f"{choice.backend} on {choice.device}" if choice.backend else "nothing"
    return "\n".join([*lines, "", f"attri-run would use {used}: {choice.why}"])


def _machine(_bundle: Path) -> Iterator[Finding]:
    """Check CPUs, memory, disk and, on a Jetson, its release."""
    group = "machine"
    yield Finding(group, "CPU", OK, str(usable_cpus()))
    if found := memory():
        little = found.available < _LITTLE_MEMORY
        advice = "close other programs, or use an int8 bundle" if little else ""
        value = f"{found.total / 1e9:.1f} GB, {found.available / 1e9:.1f} free"
        yield Finding(group, "memory", NOTE if little else OK, value, advice)
    free = shutil.disk_usage(".").free
    little = free < _LITTLE_DISK
    advice = "limit --snapshots-keep, and watch --save-video" if little else ""
    yield Finding(group, "disk", NOTE if little else OK, f"{free / 1e9:.1f} GB free here", advice)
    model = read_text(Path("/proc/device-tree/model"))
    if "Jetson" in model or "Orin" in model:
        release = read_text(Path("/etc/nv_tegra_release")).partition(", GCID")[0].lstrip("# ") or "no L4T found"
        yield Finding(group, "Jetson", OK, f"{model}, {release}")


def _engines(_bundle: Path) -> Iterator[Finding]:
    """Check ONNX Runtime, TensorRT and CUDA."""
    group = "engines"
    found = package_version("onnxruntime", "onnxruntime", "onnxruntime-gpu")
    if found is None:
        yield Finding(group, "ONNX Runtime", MISSING, "not installed", "pip install 'attri[onnx]', or 'attri[gpu]'")
    elif found.startswith("broken"):
        yield Finding(group, "ONNX Runtime", MISSING, found, "pip install --force-reinstall onnxruntime")
    else:
        providers = importlib.import_module("onnxruntime").get_available_providers()
        names = [name.removesuffix("ExecutionProvider") for name in providers]
        yield Finding(group, "ONNX Runtime", OK, f"{found}, with {', '.join(names)}")
    found = package_version("tensorrt", "tensorrt")
    usable = found is not None and not found.startswith("broken")
    advice = "comes with JetPack; elsewhere pip install 'attri[trt]'. ONNX Runtime does without"
    yield Finding(group, "TensorRT", OK if usable else MISSING, found or "not installed", "" if usable else advice)
    try:
        yield Finding(group, "CUDA", OK, _cuda())
    except OSError as error:
        yield Finding(group, "CUDA", MISSING, str(error), "the CPU does without; on a Jetson, flash JetPack again")


def _sources(_bundle: Path) -> Iterator[Finding]:
    """Check cameras and OpenCV."""
    group = "sources"
    cameras = v4l2.list_cameras()
    for camera in cameras:
        allowed = os.access(camera.device, os.R_OK | os.W_OK)
        advice = "" if allowed else "no permission: sudo usermod -aG video $USER, and log in again"
        names = ", ".join(map(str, (camera, *camera.links)))  # each may be given to attri-run
        yield Finding(group, str(camera.device), OK if allowed else NOTE, names, advice)
    if not cameras:
        yield Finding(group, "cameras", MISSING, "no /dev/video*", "plug one in, or classify files and streams")
    found = package_version("cv2", "opencv-python-headless", "opencv-python")
    if found is None or found.startswith("broken"):
        yield Finding(group, "OpenCV", MISSING, found or "not installed", "for cameras: pip install 'attri[camera]'")
        return
    build = importlib.import_module("cv2").getBuildInformation()
    gstreamer = re.search(r"GStreamer:\s+YES", build) is not None
    advice = "" if gstreamer else "no GStreamer in it, so no csi:// : use the system's python3-opencv"
    yield Finding(group, "OpenCV", OK if gstreamer else NOTE, found, advice)


def _extras(_bundle: Path) -> Iterator[Finding]:
    """Check optional packages."""
    for module in _OPTIONAL:
        needed = MODULES[module]
        found = package_version(module, needed.package)
        usable = found is not None and not found.startswith("broken")
        advice = "" if usable else f"for {needed.purpose}: pip install 'attri[{needed.extra}]'"
        yield Finding("optional", needed.package, OK if usable else MISSING, found or "not installed", advice)


def _model(bundle: Path) -> Iterator[Finding]:
    """Verify the bundle, and compare its graphs with the PyTorch model."""
    from attri.runtime.bundle import Bundle
    from attri.runtime.errors import BundleError

    try:
        with Bundle.open(bundle) as opened:
            yield _agreement(opened)
    except BundleError as error:
        what, _, advice = str(error).rpartition(": ")
        yield Finding("bundle", str(bundle), MISSING, what or str(error), advice)
        return
    engines = sorted(file.name for file in (bundle / "engines").glob("*") if file.is_file())
    if engines:
        yield Finding("bundle", "engines", OK, ", ".join(engines))


def _agreement(bundle: Bundle) -> Finding:
    """Compare the graphs of a verified bundle with the PyTorch model's outputs for its reference images."""
    from attri.runtime.engines.select import EngineOptions, open_engines
    from attri.runtime.engines.verify import compare
    from attri.runtime.errors import EngineError, MissingExtra, ParityError

    manifest, name = bundle.manifest, str(bundle.path)
    labels = plural(len(bundle.prompt.facts.labels), "label")
    value = f"{manifest.model.get('name', 'a model')}, {manifest.precision}, {labels}, verified"
    try:
        engines = open_engines(bundle, EngineOptions("onnxruntime"))  # TensorRT's are held against the model when built
        for graph, engine in zip(bundle.graph_files, engines, strict=True):
            compare(bundle, graph, engine)
    except MissingExtra:
        return Finding("bundle", name, OK, f"{value}; not compared with the model, which takes ONNX Runtime")
    except ParityError as error:
        said = f"{value}, but {str(error).partition(';')[0]}"
        return Finding("bundle", name, MISSING, said, "export it again; other bundles too? Update ONNX Runtime")
    except EngineError as error:
        return Finding("bundle", name, MISSING, f"{value}, but {error}", "update ONNX Runtime, or export it again")
    return Finding("bundle", name, OK, f"{value}, and agrees with the model")


CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "machine": _machine,
    "engines": _engines,
    "sources": _sources,
    "optional": _extras,
    "bundle": _model,
}


def package_version(module: str, *packages: str) -> str | None:
    """Find the version of a module.

    Args:
        module: is imported.
        packages: that may have installed it, for their metadata.

    Returns:
        The version; "broken: " and the reason where the import fails; None where it is not installed.
    """
    try:
        loaded: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            return None
        return f"broken: {error}"
    except Exception as error:  # a library that does not load raises whatever it likes
        return f"broken: {first_line(error)}"
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return str(getattr(loaded, "__version__", "of unknown version"))


def _cuda() -> str:
    """Name the GPUs that the NVIDIA driver sees, and its CUDA version.

    Raises:
        OSError: there is no driver, or it sees no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise OSError("no NVIDIA driver") from error
    count, number = ctypes.c_int(), ctypes.c_int()
    if (code := driver.cuInit(0)) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise OSError(f"the driver sees no GPU (code {code})")
    driver.cuDriverGetVersion(ctypes.byref(number))
    names = []
    for device in range(count.value):
        name = ctypes.create_string_buffer(128)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return f"{', '.join(names)}; driver for CUDA {number.value // 1000}.{number.value % 1000 // 10}"


if __name__ == "__main__":
    sys.exit(main())
