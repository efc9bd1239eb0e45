"""What the package finds on this machine, for `python -m numbanorm info`."""

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from numbanorm._version import __version__
from numbanorm.cpu.compiling import cache, places
from numbanorm.cpu.engine import engines, machine

_CUDA_PACKAGE = "numba-cuda"
_CUDA_DRIVER = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")


def lines() -> Iterator[tuple[str, str]]:
    """Yield names and values."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "llvmlite"))
    yield "numbanorm", f"{__version__}; {packages}; {platform.python_implementation()} {platform.python_version()}"
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "CPU", f"{_model()}, compiled for {machine.target()[0]}"
    yield "vectors", f"{machine.vector_bits()} bits"
    yield "last-level cache", f"{machine.last_level_cache() >> 20} MiB counted on"
    yield "engine", _or_error(engines.engine_name)
    yield "threads", _or_error(_threads)
    for directory in places.directories():
        yield "cache", f"{directory}: {_state(directory)}"
    yield "GPU", _gpus()
    yield "CUDA", "; ".join(_cuda())
    for value in _cubins():
        yield "CUDA cache", value


def _or_error(value: Callable[[], str]) -> str:
    """Return a value, or the error that a wrong setting raises."""
    try:
        return value()
    except ValueError as error:
        return f"error: {error}"


def _threads() -> str:
    limits = ", ".join(f"{name} {limit}" for name, limit in engines.thread_limits().items())
    return f"{engines.thread_count_in_use()} (limits: {limits})"


def _model() -> str:
    """Return the name of the processor, if the system tells it."""
    try:
        found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        found = []
    return found[0].partition(":")[2].strip() if found else platform.processor() or "unknown"


def _state(directory: Path) -> str:
    """Say what a directory holds, and whether more can be put there."""
    whole, other, nbytes = cache.contents(directory)
    return _told(directory, whole, other, nbytes)


def _told(directory: Path, whole: int, other: int, nbytes: int) -> str:
    old = f", {other} old or damaged" if other else ""
    return f"{whole} kernels{old}, {nbytes / 1e6:.1f} MB, {cache.state(directory)}"


def _gpus() -> str:
    """Return what NVIDIA's driver says of the GPUs."""
    try:
        driver = ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return f"none: no NVIDIA driver ({_CUDA_DRIVER})"
    count, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    if status := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"none: the NVIDIA driver says error {status}"
    names = []
    for device in range(count.value):
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode())
    return ", ".join(names) or "none"


def _cuda() -> Iterator[str]:
    """Say whether arrays on a GPU can be used: whether the compiler and the driver are there."""
    try:
        from numbanorm import cuda  # noqa: F401 (whether it can be imported is the question)

        yield f"{_CUDA_PACKAGE} {version(_CUDA_PACKAGE)}"
    except ImportError as error:
        yield f"error: {error}"
    try:
        ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        yield "the driver is missing"


def _cubins() -> Iterator[str]:
    """Say what is kept of the machine code for GPUs of any kind, if the package for them could be imported."""
    if "numbanorm.cuda" not in sys.modules:  # `_cuda` has told why
        return
    try:
        from numbanorm.cuda import cubins

        compiler = cubins.compiler()
    except Exception as error:  # of many types, where a library of NVIDIA's compilers is missing
        yield f"error: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return
    for directory in places.directories(cubins.SOURCES):
        yield f"{directory}: {_told(directory, *cache.contents(directory, cubins.SOURCES, compiler))}"
