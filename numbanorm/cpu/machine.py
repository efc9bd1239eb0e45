"""What the kernels have to know of the machine."""

import functools
from pathlib import Path

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
