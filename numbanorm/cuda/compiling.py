"""Describe and compile kernels.

Launches, the files of machine code and the tests know no more of a kernel than is here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from numbanorm.cuda import core, cuda, nvjitlink, nvvm

REGISTERS = 1 << 16  # of a multiprocessor
_MOST_REGISTERS = 255  # of a thread
_PACKAGES = "numba-cuda", "numba", "llvmlite", "cuda-core", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink"

Capability = tuple[int, int]  # a compute capability: (9, 0) is that of an H100


@dataclass(eq=False, slots=True)
class Kernel:
    """Hold a function and the types of its arguments, which are pointers, numbers and tuples of integers.

    Kernels are compared by identity; a `factory` creates each of them once.
    """

    function: Callable[..., None]
    argument_types: tuple[Any, ...]
    threads: int = 256  # for which a multiprocessor must have registers: those of a block, or of two
    name: str = ""  # tells the kernel from all others; the machine code of a kernel without a name is not kept

    @property
    def register_limit(self) -> int:
        """Return how many registers a thread may have."""
        return min(_MOST_REGISTERS, REGISTERS // self.threads)


def device(function: Callable[..., Any]) -> Any:
    """Decorate a function that kernels call. NVVM inlines it."""
    return cuda.jit(device=True, forceinline=True)(function)


def factory(make: Callable[..., Kernel]) -> Callable[..., Kernel]:
    """Decorate a function that makes kernels: it then makes one for each set of arguments, and names it after them.

    The name stands for the code, together with the sources of this package: so a kernel must depend on nothing else.
    """

    @lru_cache(None)
    @wraps(make)
    def made(*arguments: Any) -> Kernel:
        kernel = make(*arguments)
        kernel.name = f"{make.__module__}.{make.__name__}({', '.join(map(_described, arguments))})"
        return kernel

    return made


def _described(argument: Any) -> str:
    """Return a text for an argument of a factory.

    The argument is a number, a flag, None, or an object whose name tells it from all others.
    """
    return repr(argument) if argument is None or isinstance(argument, int) else str(argument.name)


def compile(kernel: Kernel, cc: Capability) -> tuple[bytes, str]:
    """Compile a kernel for GPUs of a compute capability. Return its machine code (a cubin), and its name in there.

    Numba asks for the current device when it compiles device functions, so there must be one.
    """
    whole = (*cc, "a") if cc >= (9, 0) else cc  # with what this architecture alone can, as Numba compiles for a device
    code, _ = cuda.compile(
        kernel.function,
        kernel.argument_types,
        device=False,
        abi="numba",
        cc=whole,
        output="ltoir",
        debug=False,
        opt=True,
    )
    options = core.LinkerOptions(
        arch="sm_" + "".join(map(str, whole)),
        max_register_count=kernel.register_limit,
        link_time_optimization=True,
    )
    linker = core.Linker(core.ObjectCode.from_ltoir(code), options=options)
    try:
        cubin = bytes(linker.link("cubin").code)
    finally:
        linker.close()
    return cubin, entry_name(cubin)


def entry_name(cubin: bytes) -> str:
    """Return the name of the one kernel in machine code.

    Machine code has a section for the arguments of each kernel, which is named after the kernel.
    """
    found = {name.decode() for name in re.findall(rb"\0\.nv\.constant0\.([^\0]+)\0", cubin)}
    if len(found) != 1:
        raise RuntimeError(f"machine code with {len(found)} kernels, must be one: {sorted(found)}")
    return found.pop()


def versions() -> tuple[object, ...]:
    """Return the versions of all that compiles: the packages, and the libraries that are found.

    The libraries may be of an installed toolkit.
    """
    return *map(_version, _PACKAGES), nvvm.version(), nvvm.ir_version(), nvjitlink.version()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
