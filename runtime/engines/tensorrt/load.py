"""Load a bundle's TensorRT engines from the engine cache, or build them, verify them and cache them."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attri.runtime._util.system import memory
from attri.runtime.bundle import ENGINES, Bundle
from attri.runtime.engines.base import Progress
from attri.runtime.engines.signature import GraphSignature, read_signature
from attri.runtime.engines.tensorrt.builder import BuildOptions, BuiltEngine, build
from attri.runtime.engines.tensorrt.cache import CachedEngine, EngineCache
from attri.runtime.engines.tensorrt.cuda import Cuda, Device, is_tegra, system
from attri.runtime.engines.tensorrt.engine import TrtEngine
from attri.runtime.engines.tensorrt.inspection import check_shares, type_shares
from attri.runtime.engines.tensorrt.keys import EngineKey, Machine
from attri.runtime.engines.verify import compare
from attri.runtime.errors import EngineError, MissingExtra

_OLDEST = (8, 6)


@dataclass(frozen=True)
class Gpu:
    """TensorRT, CUDA and the GPU of this machine.

    Attributes:
        trt: the module `tensorrt`.
        cuda: CUDA's runtime library.
        device: the GPU.
    """

    trt: Any
    cuda: Cuda
    device: Device

    @property
    def machine(self) -> Machine:
        """What engines that are built here are bound to."""
        return Machine(self.trt.__version__, self.device.name, self.device.capability, system())


def find_tensorrt() -> Gpu:
    """Find TensorRT, CUDA and the GPU of this machine.

    Raises:
        MissingExtra: TensorRT is not installed.
        EngineError: it is missing on a Jetson, does not load or is too old, or CUDA sees no GPU.
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
            " install JetPack 6, or use ONNX Runtime"
        )


def load_or_build(
    bundle: Bundle,
    gpu: Gpu,
    folder: Path,
    progress: Progress,
    *,
    options: BuildOptions | None = None,
    rebuild: bool = False,
) -> tuple[TrtEngine, ...]:
    """Load the engines of all graphs from the cache; build what it lacks.

    Args:
        bundle: the graphs, and the reference images that a new engine is verified with.
        gpu: this machine.
        folder: of the engine cache.
        progress: is given lines while engines are built.
        options: take only engines that were built for these; None takes any that runs on this machine.
        rebuild: build engines again, whatever is cached.

    Returns:
        The engines in the order of `Bundle.graph_files`.

    Raises:
        EngineError: a cached engine is damaged or not to be trusted; or an engine cannot be built, or is not in the
            precision that was asked for.
        ParityError: a new engine does not agree with the model. It is not cached.
    """
    cache = EngineCache(folder, _trusted_sha256(bundle, folder))
    loader = _Loader(bundle, gpu, cache, progress, options, rebuild)
    with ExitStack() as undo:
        engines = []
        for name in bundle.graph_files:
            engines.append(loader.engine(name))
            undo.callback(engines[-1].close)
        undo.pop_all()
    return tuple(engines)


def _trusted_sha256(bundle: Bundle, folder: Path) -> dict[str, str]:
    """Hashes of the engines that the manifest lists, by file name; {} for a folder outside of the bundle."""
    if folder.resolve() != bundle.file(ENGINES).resolve():
        return {}
    return {
        name.partition("/")[2]: str(entry.get("sha256"))
        for name, entry in bundle.manifest.files.items()
        if name.startswith(f"{ENGINES}/")
    }


@dataclass(frozen=True)
class _Loader:
    """The arguments of `load_or_build`, for the engine of one graph after the other."""

    bundle: Bundle
    gpu: Gpu
    cache: EngineCache
    progress: Progress
    options: BuildOptions | None
    rebuild: bool

    def engine(self, name: str) -> TrtEngine:
        key = make_key(self.bundle, name, self.gpu, self.options or BuildOptions())
        cached: CachedEngine | None = None
        if not self.rebuild:
            # What is refused here may be half replaced: another process renames one file after the other, locked.
            with suppress(EngineError):
                cached = self._find(key)
        if cached:
            return self._load(name, cached)
        with self.cache.lock(self.progress):
            if not self.rebuild and (cached := self._find(key)):  # written while this process waited
                return self._load(name, cached)
            for machine in self.cache.other_machines(key.name, self.gpu.machine):
                self.progress(
                    f"{self.cache.folder} has an engine of {key.name} for {machine},"
                    f" which does not run on {self.gpu.machine}"
                )
            engine = self._build(name, key)
            if self.rebuild:
                self.cache.evict_others(key)  # not sooner: if the build fails, the engine that worked is still there
            return engine

    def _find(self, key: EngineKey) -> CachedEngine | None:
        return self.cache.find(key.name, key.graph, key.machine, None if self.options is None else key.digest)

    def _load(self, name: str, cached: CachedEngine) -> TrtEngine:
        try:
            return self._open(name, cached.serialized, host_code=cached.key.version_compatible)
        except EngineError as error:
            raise EngineError(
                f"{error}; {cached.path} was built for {cached.key.machine}, this is {self.gpu.machine}:"
                " `rebuild_engines` makes a new one"
            ) from error

    def _open(self, name: str, serialized: bytes, *, host_code: bool) -> TrtEngine:
        return TrtEngine(self.gpu.trt, self.gpu.cuda, serialized, self._signature(name), host_code=host_code)

    def _signature(self, name: str) -> GraphSignature:
        return read_signature(self.bundle, self.bundle.graph_name(name, tensorrt=True))

    def _build(self, name: str, key: EngineKey) -> TrtEngine:
        """Build an engine, verify it, and only then cache it."""
        options = self.options or BuildOptions()
        workspace = options.workspace or free_memory(self.gpu.cuda) // 2
        built = build(
            self.gpu.trt,
            self.bundle.graph(name, tensorrt=True),
            self._signature(name),
            self.bundle.manifest.precision,
            options,
            key.ranges,
            workspace=workspace,
            timing_cache=self.cache.timing_cache(key.machine),
            progress=self.progress,
            name=self.bundle.graph_name(name, tensorrt=True),
        )
        engine = self._open(name, built.serialized, host_code=options.version_compatible)
        try:
            figures = self._verify(name, key, engine) | {"seconds": round(built.seconds, 1), "workspace": workspace}
            self._save(key, built, figures | {"options": asdict(options)})
        except BaseException:
            engine.close()
            raise
        return engine

    def _verify(self, name: str, key: EngineKey, engine: TrtEngine) -> dict[str, Any]:
        """Check a new engine's precision and its agreement with the model. Raises EngineError or ParityError."""
        file = self.bundle.graph_name(name, tensorrt=True)
        shares = type_shares(engine.inspect())
        if shares is None and key.precision != "fp32":
            self.progress(f"TensorRT does not show how much of {file} is {key.precision}: only its outputs are checked")
        asked = self.bundle.manifest.arithmetic.get("graphs", {}).get(name, {}).get("tensors", 1.0)
        check_shares(shares, self.bundle.manifest.precision, file, asked)
        return {"parity": compare(self.bundle, name, engine), "types": shares}

    def _save(self, key: EngineKey, built: BuiltEngine, figures: dict[str, Any]) -> None:
        cached = self.cache.save(key, built.serialized, figures)
        if built.timing_cache:
            self.cache.save_timing_cache(key.machine, built.timing_cache)
        size, least = len(built.serialized) / 2**20, min(figures["parity"].values())
        self.progress(f"{cached.path}  {size:.1f} MB in {built.seconds:.0f} s, least parity figure {least:.6f}")


def make_key(bundle: Bundle, name: str, gpu: Gpu, options: BuildOptions) -> EngineKey:
    """Cache key of the engine of one graph on this machine.

    Args:
        bundle: that the graph is in.
        name: of the graph, one of `Bundle.graph_files`.
        gpu: this machine.
        options: that the engine is built for.
    """
    file = bundle.graph_name(name, tensorrt=True)
    dims = read_signature(bundle, file).dims
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


def free_memory(cuda: Cuda) -> int:
    """Bytes that a build can use: what is free on the GPU, and no more than the system has available.

    An integrated GPU (Jetson) takes its memory from the system; for a discrete one, the host holds as much meanwhile.
    """
    free = cuda.device().free
    of_system = memory()
    return free if of_system is None else min(free, of_system.available)
