"""What the kernels have to know of the machine, and what there is to know of them."""

import functools
from pathlib import Path

from llvmlite import binding
from numba.core import config

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = 32 << 20


def streams(nbytes: int) -> bool:
    """Whether to stream results past the caches, where all arrays of a call take so many bytes.

    Half of the last-level cache: what the caller has there besides is worth as much as the results. Only the time
    depends on it: the kernels compute the same bits either way.
    """
    return nbytes > last_level_cache() // 2


@functools.cache
def last_level_cache() -> int:
    """Its bytes, as far as a core can use them; a usual size where the system does not say."""
    try:
        return max(_bytes(path.read_text()) for path in _CACHES.glob("index*/size"))
    except (OSError, ValueError):
        return _USUAL


def _bytes(text: str) -> int:
    """The size that Linux writes as 32768K."""
    return int(text.strip().removesuffix("K")) << 10


def target() -> str:
    """The processor that kernels are compiled for, by LLVM's name."""
    return config.CPU_NAME or binding.get_host_cpu_name()


def vector_bits() -> int:
    """The width of its vectors."""
    if config.CPU_FEATURES is None:
        features = {name for name, present in binding.get_host_cpu_features().items() if present}
    else:
        features = {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    if "avx512f" in features:
        return 512
    return 256 if "avx" in features else 128
