"""A bundle's TensorRT engines: found, or built once, held against the bundle's own pictures, and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attri.runtime._util.system import memory
from attri.runtime.bundle import ENGINES, TEXT, VISION, Bundle, file_entry, save_manifest
from attri.runtime.engines.signature import read_border
from attri.runtime.engines.tensorrt.builder import BuildOptions, build
from attri.runtime.engines.tensorrt.cache import CachedEngine, EngineCache, EngineKey, Machine
from attri.runtime.engines.tensorrt.cuda import Cuda, Device, is_tegra, system
from attri.runtime.engines.tensorrt.engine import TrtEngine
from attri.runtime.engines.tensorrt.inspection import check_shares, type_shares
from attri.runtime.engines.verify import compare
from attri.runtime.errors import EngineError, MissingExtra

Tell = Callable[[str], None]
_OLDEST = (8, 6)


@dataclass(frozen=True)
class Gpu:
    """TensorRT, CUDA and the GPU of this machine."""

    trt: Any
    cuda: Cuda
    device: Device

    @property
    def machine(self) -> Machine:
        return Machine(self.trt.__version__, self.device.name, self.device.capability, system())


def find_tensorrt() -> Gpu:
    """What this machine has.

    Raises:
        MissingExtra: there is no TensorRT.
        EngineError: on a Jetson there is none, it does not load, it is too old, or there is no GPU that CUDA sees.
    """
    trt = _import_tensorrt()
    check_version(trt)
    cuda = Cuda.open()
    return Gpu(trt, cuda, cuda.device())


def _import_tensorrt() -> Any:
    try:
        import tensorrt
    except Exception as error:  # bindings whose libraries do not load raise whatever they like
        if not (isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"):
            raise EngineError(f"TensorRT is here but does not load: {error or type(error).__name__}") from error
        if is_tegra():
            raise EngineError(
                "TensorRT's Python bindings are not here: sudo apt install python3-libnvinfer, and make the environment"
                " with python3 -m venv --system-site-packages"
            ) from error
        raise MissingExtra("tensorrt") from error
    return tensorrt


def check_version(trt: Any) -> None:
    """Refuse a TensorRT that is too old, by the name of the JetPack that brings it.

    Raises:
        EngineError: it is older than 8.6.
    """
    major, minor = (int(part) for part in trt.__version__.split(".")[:2])
    if (major, minor) < _OLDEST:
        raise EngineError(
            f"TensorRT {trt.__version__} (JetPack 5 or older) is not supported, 8.6 is the first that is:"
            " install JetPack 6, or use --backend onnxruntime"
        )


def tensorrt_engines(
    bundle: Bundle,
    gpu: Gpu,
    folder: Path,
    tell: Tell,
    *,
    options: BuildOptions | None = None,
    rebuild: bool = False,
) -> tuple[TrtEngine, TrtEngine]:
    """Engines of both graphs, built where none fits.

    Args:
        folder: where they are kept.
        options: only engines built for these are taken; None takes any that fits this machine.
        rebuild: build them again, whatever is there.

    Raises:
        EngineError: an engine is damaged or of someone else, cannot be built, or not in the precision asked for.
        ParityError: what was built does not agree with the model, and is not kept.
    """
    listed = {
        name.partition("/")[2]: str(entry.get("sha256"))
        for name, entry in bundle.manifest.files.items()
        if name.startswith(f"{ENGINES}/") and folder.resolve() == bundle.file(ENGINES).resolve()
    }
    store = EngineCache(folder, listed)
    vision = _engine(bundle, VISION, gpu, store, tell, options, rebuild)
    try:
        return vision, _engine(bundle, TEXT, gpu, store, tell, options, rebuild)
    except BaseException:
        vision.close()
        raise


def _engine(
    bundle: Bundle, name: str, gpu: Gpu, store: EngineCache, tell: Tell, options: BuildOptions | None, rebuild: bool
) -> TrtEngine:
    graph = bundle.graph(name, "tensorrt")
    key = make_key(bundle, name, gpu, options or BuildOptions())
    plan: CachedEngine | None = None
    if not rebuild:
        # What is refused here may be half replaced: another process renames one file after the other, under the lock.
        with suppress(EngineError):
            plan = _find(store, key, options)
    if plan:
        return _load(plan, graph, gpu)
    with store.lock(tell):
        if not rebuild and (plan := _find(store, key, options)):  # written while this process waited
            return _load(plan, graph, gpu)
        for machine in store.foreign(key.name, gpu.machine):
            tell(f"{store.folder} has an engine of {key.name} for {machine}, which does not run on {gpu.machine}")
        engine = _build(bundle, name, graph, key, gpu, store, tell, options or BuildOptions())
        if rebuild:
            store.keep_only(key)  # not sooner: should the build fail, what worked still does
        return engine


def make_key(bundle: Bundle, name: str, gpu: Gpu, options: BuildOptions) -> EngineKey:
    file = bundle.graph_name(name, "tensorrt")
    dims = read_border(bundle.file(file)).dims
    ranges = options.ranges(int(bundle.manifest.text["context_length"]))
    return EngineKey(
        file.removesuffix(".onnx"),
        bundle.manifest.files[file]["sha256"],
        gpu.machine,
        bundle.manifest.precision,
        {dim: each for dim, each in ranges.items() if dim in dims},
        options.hardware_compatible,
        options.version_compatible,
    )


def _find(store: EngineCache, key: EngineKey, options: BuildOptions | None) -> CachedEngine | None:
    return store.find(key.name, key.graph, key.machine, None if options is None else key.digest)


def _load(plan: CachedEngine, graph: Path, gpu: Gpu) -> TrtEngine:
    try:
        host_code = plan.key.version_compatible
        return TrtEngine(gpu.trt, gpu.cuda, plan.data, read_border(graph), host_code=host_code)
    except EngineError as error:
        raise EngineError(
            f"{error}; {plan.path} was built for {plan.key.machine}, this is {gpu.machine}:"
            " --rebuild-engines makes a new one"
        ) from error


def _build(
    bundle: Bundle,
    name: str,
    graph: Path,
    key: EngineKey,
    gpu: Gpu,
    store: EngineCache,
    tell: Tell,
    options: BuildOptions,
) -> TrtEngine:
    """Build, check, and only then keep."""
    workspace = options.workspace or free_memory(gpu.cuda) // 2
    file = bundle.graph_name(name, "tensorrt")
    built = build(
        gpu.trt,
        graph,
        key.precision,
        options,
        key.ranges,
        workspace=workspace,
        timing_cache=store.timing_cache(key.machine),
        tell=tell,
        name=file,
    )
    engine = TrtEngine(gpu.trt, gpu.cuda, built.plan, read_border(graph), host_code=options.version_compatible)
    try:
        shares = type_shares(engine.inspect())
        if shares is None and key.precision != "fp32":
            tell(f"TensorRT does not show how much of {file} is {key.precision}: its answers alone are checked")
        asked = bundle.manifest.arithmetic.get("graphs", {}).get(name, {}).get("tensors", 1.0)
        check_shares(shares, key.precision, file, asked)
        figures = compare(bundle, name, engine)
        about = {"parity": figures, "types": shares, "seconds": round(built.seconds, 1), "workspace": workspace}
        plan = store.save(key, built.plan, about | {"options": asdict(options)})
        if built.timing_cache:
            store.save_timing_cache(key.machine, built.timing_cache)
    except BaseException:
        engine.close()
        raise
    least = min(figures.values())
    tell(f"{plan.path}  {len(built.plan) / 2**20:.1f} MB in {built.seconds:.0f} s, least parity figure {least:.6f}")
    return engine


def list_plans(bundle: Bundle, tell: Tell) -> None:
    """Enter the bundle's portable engines in its manifest, so that other machines take them too. Raises EngineError.

    What stands there already, of other machines, stays for as long as the files are the same.
    """
    files, store = bundle.manifest.files, EngineCache(bundle.file(ENGINES))
    with store.lock(tell):  # or an engine that is being replaced is left out
        entries = {f"{ENGINES}/{name}": entry for name, entry in store.portable().items()}
    try:
        gone = [name for name in files if name.startswith(f"{ENGINES}/") and not _is_there(bundle, name)]
        kept = {name: entry for name, entry in files.items() if name not in gone}
        save_manifest(dataclasses.replace(bundle.manifest, files=kept | entries), bundle.folder)
    except OSError as error:
        raise EngineError(f"cannot list the engines in {bundle.path}'s manifest: {error.strerror}") from error


def _is_there(bundle: Bundle, name: str) -> bool:
    file = bundle.file(name)
    return file.is_file() and file_entry(file) == bundle.manifest.files[name]


def free_memory(cuda: Cuda) -> int:
    """Bytes that a build can use: free on the GPU, and no more than the system has available.

    An integrated GPU (Jetson) takes its memory from the system; for a discrete one, the host holds as much meanwhile.
    """
    free = cuda.device().free
    of_system = memory()
    return free if of_system is None else min(free, of_system.available)
