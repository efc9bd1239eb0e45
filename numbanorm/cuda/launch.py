"""How a kernel is compiled and launched: here alone, so that something else can run it in the place of a GPU."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from numbanorm.cuda import cuda

REGISTERS = 1 << 16  # of a multiprocessor


class Kernel(NamedTuple):
    """A function, and the types of its arguments: pointers and numbers alone, which a launch need not look into."""

    function: Callable[..., None]
    argument_types: tuple[Any, ...]
    threads: int = 256  # to a block, at most: there must be registers for them all


def launch(
    kernel: Kernel, grid: int, block: tuple[int, int], arguments: tuple[Any, ...], stream: int, device: int
) -> None:
    """Run a kernel on a stream of a device, both as the driver counts them."""
    if cuda.get_current_device().id == device:
        _configured(kernel, grid, block, stream, device)(*arguments)
    else:
        with cuda.gpus[device]:
            _configured(kernel, grid, block, stream, device)(*arguments)


@lru_cache(1 << 12)
def _configured(kernel: Kernel, grid: int, block: tuple[int, int], stream: int, device: int) -> Any:
    """For the current device. A small grid is no mistake: it is put in later, for Numba would warn of it."""
    many = 1 << 20
    configured = compiled(kernel, device)[many, block, cuda.external_stream(stream) if stream else 0]
    configured.griddim = (grid, 1, 1)
    return configured


@lru_cache(None)
def compiled(kernel: Kernel, device: int) -> Any:
    """For the current device. As its types are given, the arguments of a launch are not looked at."""
    return cuda.jit(kernel.argument_types, max_registers=min(255, REGISTERS // kernel.threads))(kernel.function)


def wait(device: int, stream: int, others: set[int]) -> None:
    """What is launched on a stream from now on comes after what is on the others."""
    if others:
        with cuda.gpus[device]:
            own = cuda.external_stream(stream) if stream else cuda.default_stream()
            for other in others:
                event = cuda.event(timing=False)
                event.record(cuda.external_stream(other) if other else cuda.default_stream())
                event.wait(own)
