"""How a kernel is compiled and launched, and values come and go: here alone, so that something else can take the place
of a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from numbanorm._types import Array
from numbanorm.cuda import cuda

REGISTERS = 1 << 16  # of a multiprocessor


@dataclass(eq=False, slots=True)
class Kernel:
    """A function, and the types of its arguments: pointers and numbers alone, which a launch need not look into.

    Each is made once: equal is what is the same.
    """

    function: Callable[..., None]
    argument_types: tuple[Any, ...]
    threads: int = 256  # for which a multiprocessor must have registers: those of a block, or of two


def device(function: Callable[..., Any]) -> Any:
    """What kernels call, and NVVM inlines."""
    return cuda.jit(device=True, forceinline=True)(function)


def launch(
    kernel: Kernel, grid: int, block: tuple[int, int], arguments: tuple[Any, ...], stream: int, device: int
) -> None:
    """Run a kernel on a stream of a device, both as the driver counts them."""
    if cuda.get_current_device().id == device:
        _launch(kernel, grid, block, arguments, stream, device)
    else:
        with cuda.gpus[device]:
            _launch(kernel, grid, block, arguments, stream, device)


def _launch(
    kernel: Kernel, grid: int, block: tuple[int, int], arguments: tuple[Any, ...], stream: int, device: int
) -> None:
    """By the compiled kernel itself: Numba would warn of a small grid, and keep a configuration for each."""
    compiled(kernel, device).launch(arguments, (grid, 1, 1), (*block, 1), _stream(stream, device))


@lru_cache(None)
def compiled(kernel: Kernel, device: int) -> Any:
    """For the current device. As its types are given, the arguments of a launch are not looked at."""
    most = min(255, REGISTERS // kernel.threads)
    return cuda.jit(kernel.argument_types, max_registers=most)(kernel.function).overloads[kernel.argument_types]


@lru_cache(256)
def _stream(handle: int, device: int) -> Any:
    """Of the current device, as a compiled kernel takes it."""
    return cuda.cudadrv.driver._to_core_stream(cuda.external_stream(handle) if handle else 0)


def fetch(address: int, size: int, dtype: np.dtype[Any], stream: int, device: int) -> Array:
    """So many values from the device, once all that is on the stream is done: this waits for it."""
    with cuda.gpus[device]:
        found = _at(address, size, dtype).copy_to_host(stream=_numba_stream(stream))
        _numba_stream(stream).synchronize()
    return found


def send(array: Array, address: int, stream: int, device: int) -> None:
    """Values to the device, for what comes on the stream from now on."""
    with cuda.gpus[device]:
        _at(address, array.size, array.dtype).copy_to_device(array, stream=_numba_stream(stream))
        _numba_stream(stream).synchronize()  # before the array may be gone


def _at(address: int, size: int, dtype: np.dtype[Any]) -> Any:
    interface = {"data": (address, False), "shape": (size,), "strides": None, "typestr": dtype.str, "version": 3}
    return cuda.from_cuda_array_interface(interface, sync=False)


def wait(device: int, stream: int, others: set[int]) -> None:
    """What is launched on a stream from now on comes after what is on the others."""
    with cuda.gpus[device]:
        for other in others:
            event = cuda.event(timing=False)
            event.record(_numba_stream(other))
            event.wait(_numba_stream(stream))


def _numba_stream(handle: int) -> Any:
    return cuda.external_stream(handle) if handle else cuda.default_stream()
