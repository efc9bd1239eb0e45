"""Launch kernels, and copy values to and from the device.

No other file does so, so a test can put something else in the GPU's place.
"""

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from numbanorm._types import Array
from numbanorm.cuda import core, cuda, driver, types
from numbanorm.cuda.compiling import Kernel
from numbanorm.cuda.cubins import cubin_of

__all__ = ["Kernel", "fetch", "launch", "send", "wait"]

_SUCCESS = driver.CUresult.CUDA_SUCCESS


def launch(
    kernel: Kernel, grid: int, block: tuple[int, int], arguments: tuple[Any, ...], stream: int, device: int
) -> None:
    """Run a kernel on a stream of a device, both as the driver counts them."""
    if _current_device() == device:
        _launch(kernel, grid, block, arguments, stream, device)
    else:
        with cuda.gpus[device]:
            _launch(kernel, grid, block, arguments, stream, device)


def _current_device() -> int:
    """Return the number of the device whose context is current. If none is, Numba makes device 0's current."""
    status, number = driver.cuCtxGetDevice()
    return int(number) if status == _SUCCESS else cuda.get_current_device().id


def _launch(
    kernel: Kernel, grid: int, block: tuple[int, int], arguments: tuple[Any, ...], stream: int, device: int
) -> None:
    """Put a launch into the stream. The caller has made the device current."""
    ready = loaded(kernel, device)
    core.launch(_stream(stream, device), _configuration(grid, block), ready.kernel, *ready.packed(arguments))


class Loaded(NamedTuple):
    """Hold a kernel that is on a device, and say which of its arguments a launch must convert."""

    kernel: Any
    code: Any  # of which the kernel is a part: it is unloaded when nobody has it any more
    conversions: tuple[tuple[int, Any], ...]  # places of the floating-point numbers, and what makes the kernel's type
    has_tuples: bool

    def packed(self, arguments: tuple[Any, ...]) -> list[Any]:
        """Return arguments of Python as `core.launch` copies them to the kernel.

        `core.launch` takes an int for 8 bytes, which all pointers and integers of the kernels have, and a float for a
        double. The kernel takes each integer of a tuple as an argument of its own, as Numba compiles it.
        """
        values = [*arguments]
        if self.has_tuples:
            values = [value for given in arguments for value in (given if isinstance(given, tuple) else (given,))]
        for place, convert in self.conversions:
            values[place] = convert(values[place])
        return values


def _float32(value: float) -> Any:
    """Return a number of NumPy's type, which `core.launch` tries before the types of ctypes.

    ctypes rounds the number, since NumPy would warn where a number is beyond the range and becomes infinity.
    """
    return np.float32(ctypes.c_float(value).value)


_CONVERSIONS = {types.int64: None, types.float32: _float32, types.float64: float}


@lru_cache(None)
def loaded(kernel: Kernel, device: int) -> Loaded:
    """Load a kernel onto the current device, and compile it if need be."""
    cubin, name = cubin_of(kernel, tuple(cuda.get_current_device().compute_capability))
    code = core.ObjectCode.from_cubin(cubin)
    found = code.get_kernel(name)
    found.attributes.num_regs  # noqa: B018 (Numba asked, too: the driver then loads the kernel before its first launch)
    return described(kernel, found, code)


def described(kernel: Kernel, found: Any, code: Any) -> Loaded:
    """Wrap a kernel that has been loaded, and find in its types which arguments must be converted."""
    flat: list[Any] = []
    has_tuples = False
    for given in kernel.argument_types:
        is_tuple = isinstance(given, types.BaseTuple)
        flat += given if is_tuple else (given,)
        has_tuples |= is_tuple
    converts = [None if isinstance(one, types.CPointer) else _CONVERSIONS[one] for one in flat]
    places = tuple((place, convert) for place, convert in enumerate(converts) if convert is not None)
    return Loaded(found, code, places, has_tuples)


@lru_cache(1 << 12)
def _configuration(grid: int, block: tuple[int, int]) -> Any:
    """Return the configuration of a launch.

    Threads share it, so it is never changed. `core.launch` reads it while it holds the interpreter's lock.
    """
    return core.LaunchConfig(grid=(grid, 1, 1), block=(*block, 1))


@lru_cache(256)
def _stream(handle: int, device: int) -> Any:
    """Return a stream of the current device."""
    return core.Stream.from_handle(handle)


def fetch(address: int, size: int, dtype: np.dtype[Any], stream: int, device: int) -> Array:
    """Copy that many values from the device, and wait until all that is on the stream is done."""
    with cuda.gpus[device]:
        found = _at(address, size, dtype).copy_to_host(stream=_numba_stream(stream))
        _numba_stream(stream).synchronize()
    return found


def send(array: Array, address: int, stream: int, device: int) -> None:
    """Copy values to the device, before all later work on the stream."""
    with cuda.gpus[device]:
        _at(address, array.size, array.dtype).copy_to_device(array, stream=_numba_stream(stream))
        _numba_stream(stream).synchronize()  # before the array may be gone


def _at(address: int, size: int, dtype: np.dtype[Any]) -> Any:
    interface = {"data": (address, False), "shape": (size,), "strides": None, "typestr": dtype.str, "version": 3}
    return cuda.from_cuda_array_interface(interface, sync=False)


def wait(device: int, stream: int, others: set[int]) -> None:
    """Let all later launches on a stream wait for what is on the other streams."""
    with cuda.gpus[device]:
        for other in others:
            event = cuda.event(timing=False)
            event.record(_numba_stream(other))
            event.wait(_numba_stream(stream))


def _numba_stream(handle: int) -> Any:
    return cuda.external_stream(handle) if handle else cuda.default_stream()
