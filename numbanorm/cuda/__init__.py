"""The kernels on the GPU; the one place that imports numba.cuda."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

_NEEDED = "arrays there need the package numba-cuda, 0.30.4 or newer; pip install -U 'numbanorm[cuda]'"


def _unusable(reason: str) -> ImportError:
    """What to raise: what to install, what is installed, and why that does not do."""
    try:
        found = f"numba-cuda {version('numba-cuda')} beside Numba {version('numba')}: {reason}"
    except PackageNotFoundError:
        found = reason
    return ImportError(f"{_NEEDED} ({found})")


try:
    from numba import cuda as _cuda
    from numba.cuda import cgutils, extending  # type: ignore[attr-defined]
    from numba.cuda.core import imputils
except Exception as error:  # a version that does not fit Numba's fails in many ways
    raise _unusable(f"{type(error).__name__}: {error}") from error

if getattr(_cuda, "implementation", None) != "NVIDIA":  # Numba's own, which is no longer kept up
    raise _unusable("Numba's own numba.cuda was imported instead")

cuda: Any = _cuda

__all__ = ["cgutils", "cuda", "extending", "imputils"]
