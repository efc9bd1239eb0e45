"""Find what the kernels have to know of the machine: its last-level cache, and the processor to compile for."""

import functools
import os
from pathlib import Path

from numba.extending import overload

from numbanorm.cpu.compiling.numba_internals import this_machine
from numbanorm.cpu.engine import cells
from numbanorm.cpu.engine.atomic import load

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = 32 << 20  # bytes
_SHARE = 16 << 20  # bytes of cache to each processor, at most: a virtual machine reports the cache of a whole chip


def streams(nbytes: int) -> bool:
    """Return whether to stream results past the caches, if all arrays of a call take `nbytes`.

    Compiled code may call this. Results are streamed above half of the last-level cache, since what else the caller has
    there is worth as much as the results. The choice affects the time alone: the kernels compute the same bits either
    way.
    """
    return nbytes > last_level_cache() // 2


@functools.cache
def last_level_cache() -> int:
    """Return the bytes of the last-level cache that can be counted on.

    Where the system does not say, this is a usual size.
    """
    try:
        size = max(_bytes(path.read_text()) for path in _CACHES.glob("index*/size"))
    except (OSError, ValueError):
        size = _USUAL
    return min(size, _SHARE * (os.cpu_count() or 1))


def _bytes(text: str) -> int:
    """Return the number of bytes that Linux writes as, say, 32768K."""
    return int(text.strip().removesuffix("K")) << 10


# This is set at the import, since compiled code may run before any Python code asks.
cells.words[cells.STREAMED] = last_level_cache() // 2


@overload(streams)
def _compiled_streams(nbytes):
    def streams(nbytes):
        return nbytes > load(cells.address(), cells.STREAMED)

    return streams


def target() -> tuple[str, str]:
    """Return the processor that kernels are compiled for, and its features, by LLVM's names."""
    _, name, features = this_machine()
    return name, features


def vector_bits() -> int:
    """Return the width of the processor's vectors."""
    features = {name[1:] for name in target()[1].split(",") if name.startswith("+")}
    if "avx512f" in features:
        return 512
    return 256 if "avx" in features else 128
