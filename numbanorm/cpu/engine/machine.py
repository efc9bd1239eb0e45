"""What the kernels have to know of the machine, and what there is to know of them."""

import functools
import os
from pathlib import Path

from numba.core.registry import cpu_target

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = 32 << 20
_SHARE = 16 << 20  # of a cache to each processor, at most: a virtual machine tells of a chip's whole cache


def streams(nbytes: int) -> bool:
    """Whether to stream results past the caches, where all arrays of a call take so many bytes.

    Half of the last-level cache: what the caller has there besides is worth as much as the results. Only the time
    depends on it: the kernels compute the same bits either way.
    """
    return nbytes > last_level_cache() // 2


@functools.cache
def last_level_cache() -> int:
    """Its bytes, as far as they can be counted on; a usual size where the system does not say."""
    try:
        size = max(_bytes(path.read_text()) for path in _CACHES.glob("index*/size"))
    except (OSError, ValueError):
        size = _USUAL
    return min(size, _SHARE * (os.cpu_count() or 1))


def _bytes(text: str) -> int:
    """The size that Linux writes as 32768K."""
    return int(text.strip().removesuffix("K")) << 10


def target() -> tuple[str, str]:
    """The processor that kernels are compiled for, and what it has, by LLVM's names."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return name, features


def vector_bits() -> int:
    """The width of its vectors."""
    features = {name[1:] for name in target()[1].split(",") if name.startswith("+")}
    if "avx512f" in features:
        return 512
    return 256 if "avx" in features else 128
